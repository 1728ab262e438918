/*
 * params.h: every parameter of the model, from one table.
 *
 * A row of the table (src/model/params.c) says what a tensor is called in Hugging Face's gpt2 and llama files, its
 * true shape, its initial values, whether it decays, and when it is there. From it follow the layout of the
 * arenas, initialisation, checkpoints, --init-from, --probe and the optimizer's slots.
 *
 * All arenas (weights, their lower halves, gradients, first moments) have the same layout: parameter p of layer l
 * is elements [offset, offset + count) of each; second moments are there for AdamW's parameters alone. Rows are padded as
 * kernels.h says. What is read in the storage type comes first, layer by layer as forward meets it, then the vectors of all layers.
 *
 * A parameter is made of pieces: what files know as separate tensors but one product computes (q, k and v;
 * gate and up). Each piece has its own initial values, keyed by (seed, its name, logical index), so that they
 * depend on neither layout nor device; the head of a gpt2 or llama model has the same ones whichever names the
 * file uses, as the key is the internal name.
 */
#ifndef PARAMS_H
#define PARAMS_H

#include "../../kernels/kernels.h"
#include "../settings/config.h"
#include "../settings/param_ids.h"

typedef enum ParamKind {
    PARAM_MATRIX,    /* read in the storage type */
    PARAM_EMBEDDING, /* a matrix whose rows are looked up */
    PARAM_BIAS,      /* a vector read in the storage type */
    PARAM_VECTOR,    /* a vector or scalar read in the accumulate type */
    PARAM_FREE,      /* the same, but it never decays: gates and λ */
} ParamKind;

enum { PIECES_MOST = 3, PARAM_NAME_SIZE = 96 };

typedef struct ParamPiece {
    char key[PARAM_NAME_SIZE];  /* internal name, keys the initial values: "layer.3.q" */
    char name[PARAM_NAME_SIZE]; /* in files; "" where the file keeps this piece inside the first one */
    int row0, rows;             /* the parameter's rows [row0, row0 + rows) */
    double init_std, init_mean;
    double init_cut;            /* normals beyond so many standard deviations are drawn again; 0: none are */
} ParamPiece;

typedef struct Param {
    ParamId id;
    int layer;           /* from 0; −1 where there is one for the whole model */
    ParamKind kind;
    int rows, cols;      /* before padding; a vector of n is [n, 1] here, n consecutive elements */
    int64_t offset, count;
    bool transposed;     /* files hold [cols, rows] (gpt2's Conv1D) */
    bool decay;
    OptimizerKind optimizer;
    int pieces;
    ParamPiece piece[PIECES_MOST];
} Param;

/* A range of the arenas that ranks reduce together: whole layers, of at least --bucket-mb; the last one is the vectors'.
 * Its length is a multiple of 128 elements for each rank. */
typedef struct Bucket {
    int64_t begin, end; /* elements */
    int ready;          /* its gradients are there after backward of this layer, and forward reads its weights from there on;
                         * −1: the embedding; L: the head */
} Bucket;

/* A rank's part of a bucket: elements of the arenas. */
typedef struct Share {
    int64_t piece_begin, piece_end; /* what it sums gradients of */
    int64_t begin, end;             /* what it updates: the piece, or all of the bucket */
    int64_t moments;                /* where they start in arenas that hold shares alone: moments, and lower halves (model.h) */
} Share;

typedef struct Params {
    Param *list; /* in arena order */
    int count;
    int64_t elements;                 /* of an arena, padding included */
    int64_t true_elements;            /* numbers that the model has: "0.8 M parameters" */
    int64_t true_elements_no_embeddings;
    int layers;
    int64_t vectors;                  /* from this element on the arenas hold vectors, read in the accumulate type */
    Bucket *bucket;                   /* in arena order, without holes */
    int buckets;
    int *index;                       /* [(layer + 1)·PARAM_COUNT + id] → position in list, −1: not there */
} Params;

/* Element `at` of an arena of this type; of one that holds shares alone `at` is from its own start. */
static inline void *element_of(void *arena, DType type, int64_t at) {
    return (char *)arena + at * (int64_t)dtype_size(type);
}

/* Builds the table's tensors for a resolved config. Release with params_free(). */
void params_build(Params *params, const Config *config);
void params_free(Params *params);

/* The shares [buckets] of the config's rank; NULL to count alone. Returns the elements of an arena that holds them. */
int64_t params_shares(const Params *params, const Config *config, Share *shares);

/* Elements of the arena of second moments, share behind share, which holds AdamW's alone. Element e of the arenas has its
 * second moment at e + shift [count] of its parameter, where it is in this rank's shares; or NULL. */
int64_t params_second_moments(const Params *params, const Config *config, int64_t *shift);

/* The parameter, or NULL where this model has none; layer −1 for those outside the blocks. */
const Param *params_find(const Params *params, ParamId id, int layer);

/* Initial values into an arena of host memory in the accumulate type (zeroed before: padding stays zero). */
void params_init(const Params *params, const Config *config, DType type, void *arena);

/* One slot per parameter, for the optimizer kernels. Caller frees. */
ParamSlot *params_slots(const Params *params, const Config *config);

/* What a file holds: one entry a tensor, in arena order. A piece without a name is inside its predecessor. */
typedef struct FileTensor {
    const char *name;
    int dims;
    int64_t shape[2];
    const Param *param;
    int row0, rows; /* of the parameter, pieces without a name included */
    int split, gap; /* from row `split` on, the arena's rows lie `gap` further on (SwiGLU's padding) */
} FileTensor;

/* All tensors of a checkpoint of this model; *count is set. Caller frees. */
FileTensor *params_file_tensors(const Params *params, int *count);

/* Elements between two rows of a parameter in an arena: padded for matrices, 1 for vectors. */
int64_t params_row_stride(const Param *param);

/* Copies rows [first, first + rows) of a file tensor between rows of an arena in host memory (padded, starting
 * at row `first`) and the file's layout (true shape, row-major), both in the accumulate type. Of a tensor that is
 * transposed or has a gap all rows at once. */
void params_pack(const FileTensor *tensor, DType type, int64_t rows, const void *arena_rows, void *file_values);
void params_unpack(const FileTensor *tensor, DType type, int64_t rows, void *arena_rows, const void *file_values);

#endif
