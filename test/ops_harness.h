/*
 * ops_harness.h: how a case of the operation suite is written down, and how it is run.
 *
 * A FAMILY is one operation with a table of shapes and a table of variants; its cases are all pairs. Its
 * declare function turns one pair into a Case: it takes the argument struct from arguments(), fills in what
 * is not a pointer, and says for each pointer what lies there:
 *
 *     Linear *a = arguments(c, sizeof *a);
 *     *a = (Linear){.N = s->N, .in = s->in, .out = s->out};
 *     matrix(c, TO(a->x), STORAGE, IN, s->N, s->in);
 *     weight(c, TO(a->w), STORAGE, IN, s->out, s->in);
 *     matrix(c, TO(a->y), STORAGE, OUT, s->N, s->out);
 *     call(c, OP_linear_forward, a);
 *
 * That is all: the harness fills the tensors with seeded numbers (uniform, mean 0, deviation 1: bounded, so
 * that no single element's rounding decides), rounds them to the implementation's types, lays them out padded
 * between guard zones in its memory, points the fields at them, runs, and checks
 *   - IN      that not a bit of it changed;
 *   - OUT     that each element was written (it starts as NaN);
 *   - ADDED   that a parameter's gradient was added to what was there (it does not start as zero);
 *   - INOUT   what became of an operand that is written in place;
 *   - MADE    what the prepare() call (a forward pass, run in fp64) left for the call under test: then IN;
 *   - all     that padding is still zero and guard zones are untouched.
 *
 * Tolerance (DESIGN.md): the largest error against fp64 is at most 2 times (ADDED: 3 times) the error of the
 * plain loop in the same number model, plus 4 ulp of the tensor's rms. The plain loop may be exact by luck
 * where an output has few elements, so such a case is drawn several times and its errors are pooled.
 */
#ifndef OPS_HARNESS_H
#define OPS_HARNESS_H

#include "implementations.h"
#include "ops_list.h"

#include <math.h>
#include <stdlib.h>

#define OP_NAME(name, Arguments) OP_##name,
typedef enum Operation { OPERATIONS(OP_NAME) OP_COUNT } Operation;
#undef OP_NAME

/* HALVES: ACCUM; where Storage is narrower, the lower halves of masters, whose upper ones are a tensor before it. FIXED_…: types
 * that do not depend on the implementation. BYTES: a struct, as it is. */
typedef enum TypeClass { STORAGE, ACCUM, HALVES, RESIDUAL, FIXED_F32, FIXED_F64, FIXED_BF16, U32, BYTES } TypeClass;
typedef enum Role { IN, OUT, ADDED, INOUT, MADE } Role;

enum { MAX_TENSORS = 48, MAX_FIELDS = 6, MAX_TITLE = 240 };

typedef struct Tensor Tensor;
struct Tensor {
    const char *name;
    TypeClass type;
    Role role;
    /* Rows of `parts` side by side, each `cols` elements in `part_ld`; a row is parts·part_ld, stored_rows of
     * them. */
    int64_t rows, stored_rows, parts, cols, part_ld;
    double *value;    /* [rows·parts·cols] what it holds before the call */
    bool exact;       /* an output that has to be right to the bit */
    bool only_finite; /* an output whose true value is rounding noise or 0, such as the variance of one number
                       */
    bool *ignored;    /* or NULL: elements of an output that the contract leaves open */
    bool unread;      /* the call under test sees NaN here: the contract says that it does not read it */
    Tensor *copy_of;  /* that tensor in Storage; NULL in the arguments where Storage is Accum */
    void *field[MAX_FIELDS];
    int n_fields;
    Tensor *upper;    /* HALVES: that tensor, a copy of this one with the same `value` */
    void *whole;      /* … and the field that takes its place where Storage is Accum */
    void *bytes; /* BYTES: the contents */
    size_t n_bytes;
    Tensor *parent; /* inside(): a member of a BYTES tensor, at offset */
    size_t offset;
    bool integer; /* … of uint64_t, not double */
    /* grad mode */
    Tensor *derivative_of; /* this is the gradient at that tensor, times factor */
    double factor;
};

typedef struct Call {
    Operation operation;
    const void *arguments; /* NULL: none */
} Call;

typedef struct Upstream { /* the objective of grad mode has the term scale·⟨of, gradient⟩ */
    const Tensor *of, *gradient;
    const Tensor *scale; /* one number, or NULL for 1 */
} Upstream;

typedef struct Image Image;

typedef struct Case {
    char title[MAX_TITLE];
    Limits limits;
    bool residual_is_accum;
    bool impossible; /* this pair of shape and variant makes no sense: passed over */
    bool cpu_only;   /* a head size that only the CPU takes */
    bool measured;   /* perf mode: prepared by the implementation itself */
    double flops;    /* perf mode; 0: report bytes only */
    Call prepare, main;
    Tensor tensor[MAX_TENSORS];
    int n_tensors;
    Upstream upstream[4];
    int n_upstream;
    struct {
        void *field;
        TypeClass type;
    } dtype_field[2]; /* DType members that name an operand's type */
    int n_dtype_fields;
    uint64_t rng;
    void *memory[2 * MAX_TENSORS + 16];
    int n_memory;
} Case;

typedef struct Family {
    Operation operation;
    void (*declare)(Case *, const void *shape, const void *variant);
    const void *shapes, *variants;
    size_t shape_size, variant_size;
    int n_shapes, n_variants;
    bool perf;    /* measured, not tested */
    bool no_bits; /* a library's result may depend on the number of threads */
    bool whole;   /* no pair is left out, of large cases or of a sample: each is a kernel of its own */
} Family;

#define FAMILY(op, declare_function, shape_table, variant_table, ...)                                        \
    {                                                                                                        \
        .operation = OP_##op, .declare = declare_function, .shapes = shape_table, .variants = variant_table, \
        .shape_size = sizeof(shape_table)[0], .variant_size = sizeof(variant_table)[0],                      \
        .n_shapes = sizeof(shape_table) / sizeof(shape_table)[0],                                            \
        .n_variants = sizeof(variant_table) / sizeof(variant_table)[0], __VA_ARGS__                          \
    }

extern const Family families_block[], families_attention[], families_junction[], families_step[], families_update[];
extern const int n_families_block, n_families_attention, n_families_junction, n_families_step, n_families_update;

/* All families in one numbering; NULL past the end. */
const Family *family_at(int index);

/* --------------------------------------------------------------------------------- writing a case down */

#define TO(member) (void *)&(member), #member

void describe(Case *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *arguments(Case *c, size_t size);

Tensor *matrix(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t rows, int64_t cols);
Tensor *parted(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t rows, int64_t parts,
               int64_t cols);
Tensor *weight(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t rows, int64_t cols);
Tensor *vector(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t n);
Tensor *flat(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t rows, int64_t cols);
/* Masters in halves; where Storage is Accum the third field has them whole, and the others nothing. */
Tensor *halves(Case *c, void *upper, const char *upper_name, void *lower, void *whole, const char *name, Role role, int64_t n);
Tensor *indices(Case *c, void *field, const char *name, int64_t n, int64_t below); /* uniform in [0, below) */
Tensor *structure(Case *c, void *field, const char *name, Role role, const void *contents, size_t size);
Tensor *inside(Case *c, Tensor *parent, const char *name, Role role, size_t offset, int64_t n);

/* The same memory at one more pointer (an alias, or a second struct of arguments). Returns t. */
Tensor *also(Tensor *t, void *field);
#define ALSO(t, member) also(t, (void *)&(member))

/* Other numbers: mean + deviation·centred; or the same value everywhere. Both return t. */
Tensor *spread(Case *c, Tensor *t, double mean, double deviation);
Tensor *constant(Tensor *t, double value);
double uniform(Case *c);
double centred(Case *c); /* uniform, mean 0, deviation 1 */
int64_t below(Case *c, int64_t n);

/* Rows of zeros, of 1e4 and of 1e-20 among the others. */
void extreme_rows(Tensor *t);

void prepare(Case *c, Operation operation, const void *arguments);
void call(Case *c, Operation operation, const void *arguments);
void upstream(Case *c, const Tensor *of, const Tensor *gradient, const Tensor *scale);
void derivative(Tensor *gradient, Tensor *of, double factor);
void dtype_of(Case *c, DType *field, TypeClass type);

/* A case of a family; the seed and the number of the draw decide its numbers. */
void case_open(Case *c, const Family *family, int shape, int variant, uint64_t seed, int draw);
void case_close(Case *c);

/* --------------------------------------------------------------------------------------------- running */

const char *operation_name(Operation operation);
bool operation_present(const Kernels *k, Operation operation);
void operation_run(const Kernels *k, Queue *queue, Call call);

DType type_in(const Kernels *k, const Case *c, TypeClass type);
int64_t tensor_count(const Tensor *t); /* elements that count: rows·parts·cols */

enum { IMAGE_GUARD = 1024 }; /* bytes before and after each tensor that nothing may touch */

/* The tensors of a case in one implementation's memory. */
struct Image {
    const Implementation *implementation;
    const Kernels *k;
    const Case *c;
    Queue *queue;
    void *block[MAX_TENSORS]; /* device memory with guard zones */
    unsigned char *before[MAX_TENSORS], *after[MAX_TENSORS];
    size_t bytes[MAX_TENSORS]; /* without guard zones */
};

void image_open(Image *image, const Implementation *implementation, const Kernels *k, const Case *c);
void image_close(Image *image);
void image_upload(Image *image, bool preparing);  /* also points the fields of the case at this image */
void image_update(Image *image, const Tensor *t); /* one tensor's values again, without guard zones */
void image_run(Image *image, Call call);          /* runs and waits */
void image_download(Image *image);
void image_fetch(Image *image, const Tensor *t); /* image_download of one tensor, without guard zones */
void image_values(const Image *image, const Tensor *t, double *value);

/* What the call did to memory that it should not have touched: false with a line in text. */
bool image_intact(const Image *image, bool preparing, char *text, size_t size);

/* Rounds the case's tensors to an implementation's types, runs the prepare call in fp64 and rounds what it
 * made. */
void case_prepare(Case *c, const Implementation *implementation);

/* The fp64 version that others are held to: cpu/f64, or plain/long for fp64 itself and for what cpu/f64
 * lacks. */
const Kernels *truth_for(const Kernels *k, const Case *c, Operation operation);

/* ----------------------------------------------------------------------------------------------- modes */

typedef struct Report {
    int cases, failures;
    bool quiet;           /* the self-test expects failures: keep them to itself */
    char first[512];      /* the first failure, or the first that is being looked for */
    const char *look_for; /* the self-test: only failures with this in their text count, and one is enough */
    double worst;         /* largest error in units of what is allowed */
} Report;

void report_failure(Report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One output over all draws of a case: the largest error, and what it is measured by. */
typedef struct Pool {
    double error, plain_error, squares;
    int64_t count, nonzero, worst;
    double got, truth; /* where the error is largest */
} Pool;

void pool_add(Pool *pool, const Tensor *t, const double *got, const double *plain, const double *truth);

/* The tolerance, for numbers of a type; `name` is the implementation's, for the message. */
void judge(const char *name, DType type, const Case *c, const Tensor *t, const Pool *pool, Report *report);

/* The cases of an operation, or a sample of them; a test says whether there was such a case. */
typedef bool CaseTest(const Implementation *, const Family *, int shape, int variant, uint64_t seed,
                      Report *);
void for_cases(const Implementation *implementation, Operation operation, bool sample, uint64_t seed,
               Report *report, CaseTest *test);
/* Whether the case exists for this implementation; opens it if so. */
bool open_for(Case *c, const Implementation *implementation, const Family *family, int shape, int variant,
              uint64_t seed, int draw);
int draws_of(const Implementation *implementation, const Case *c);
/* Sets the threads for comparing values; returns how many there were. */
int threads_for(const Implementation *implementation, const Family *family);

/* Opens the image, runs the call under test and downloads; memory that it should not have touched is reported. */
void run_image(Image *image, const Implementation *implementation, const Kernels *k, const Case *c,
               const char *title, Report *report);
double *result_of(const Image *image, const Tensor *t); /* its numbers; the caller frees */
bool is_output(const Tensor *t);
double ulp(DType type, double value); /* of a positive value; of others 0 */
/* The call that makes the same norm of the stored u again. */
Junction recomputing(const Junction *j);

/* Each runs the cases of one operation on one implementation. gradients: fp64 implementations only. */
void test_values(const Implementation *implementation, Operation operation, uint64_t seed, Report *report);
void test_bits(const Implementation *implementation, Operation operation, uint64_t seed, Report *report);
void test_gradients(const Implementation *implementation, Operation operation, uint64_t seed, Report *report);
/* Whether two bf16 implementations round at the same places (ops_twins.c). */
void test_twins(const Implementation *first, const Implementation *second, Operation operation, uint64_t seed,
                Report *report);
void twins_print(void); /* what all test_twins so far have compared, and how far apart it was */
bool operation_has_cases(Operation operation);
bool operation_has_gradients(Operation operation);
void measure(const Implementation *implementation, Operation operation, uint64_t seed);

/* What is not a family: memory, queues and events; the step's decisions over many steps. */
void test_memory(const Implementation *implementation, Report *report);
void test_step_sequence(const Implementation *implementation, uint64_t seed, Report *report);

/* The suite must fail on operations that are broken on purpose: wrap() is cpu/f32 (BROKEN_GRADIENTS: cpu/f64;
 * BROKEN_TWINS: cpu/bf16) with one operation replaced. */
typedef enum BrokenKind { BROKEN_VALUES, BROKEN_BITS, BROKEN_GRADIENTS, BROKEN_TWINS } BrokenKind;
typedef struct Broken {
    const char *what;
    const char *sign; /* what the suite's message has to say */
    Operation operation;
    BrokenKind kind;
    Kernels (*wrap)(const Kernels *good);
} Broken;
extern const Broken broken_operations[];
extern const int n_broken_operations;

#endif
