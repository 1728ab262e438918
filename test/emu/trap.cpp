/*
 * trap.cpp: how the emulation stops: faults with their place, signals, and arithmetic on poison.
 *
 * Device code runs with the processor's invalid-operation exception on. Poison is a signalling NaN, so
 * adding, comparing or converting it raises SIGFPE; so does a genuine invalid operation (inf − inf, 0/0, a
 * comparison with NaN), which a kernel may do. The handler therefore looks for poison in the instruction's
 * operands. Without poison there it lets the instruction pass and leaves the exception off for the rest of that
 * thread. x86-64 only, and only for code without AVX encodings (do not give -mavx or -march=native); elsewhere
 * poison shows as NaN in the results.
 */
#include "emu.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

extern "C" void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));
extern "C" void __sanitizer_print_stack_trace(void) __attribute__((weak));
extern "C" void __ubsan_on_report(void);

namespace emu {

namespace {

/* "kernel K, block (x, y, z), thread (x, y, z): " or nothing on the host. */
void place(const Thread *thread, char *text, size_t size) {
    text[0] = 0;
    if (!running) return;
    const char *name = running->kernel;
    int length = (int)strlen(name);
    if (name[0] == '(' && name[length - 1] == ')') name++, length -= 2;
    int used = snprintf(text, size, "kernel %.*s, block (%u, %u, %u), ", length, name, block_index.x,
                        block_index.y, block_index.z);
    if (used < 0 || (size_t)used >= size) return;
    if (thread)
        snprintf(text + used, size - (size_t)used, "thread (%u, %u, %u): ", thread->index.x, thread->index.y,
                 thread->index.z);
    else
        snprintf(text + used, size - (size_t)used, "after its threads: ");
}

[[noreturn]] void fault_list(const Thread *thread, const char *format, va_list args) {
    char where[512], what[1024];
    place(thread, where, sizeof where);
    vsnprintf(what, sizeof what, format, args);
    fflush(stdout);
    fprintf(stderr, "emu: %s%s\n", where, what);
    fflush(stderr);
    _exit(EMU_EXIT);
}

/* Says once where a sanitizer's report comes from. */
void on_sanitizer_report() {
    static bool told;
    char where[512];
    place(current, where, sizeof where);
    if (where[0] && !told) fprintf(stderr, "emu: %ssee the sanitizer's report\n", where);
    told = true;
}

bool is_poison(const void *memory, size_t bytes) {
    const unsigned char *at = static_cast<const unsigned char *>(memory);
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        uint32_t word;
        memcpy(&word, at + i, 4);
        if (word == POISON || word == (uint32_t)POISON_BF16 << 16) return true;
    }
    return false;
}

#if defined(__x86_64__)

const unsigned MXCSR_INVALID_MASK = 1u << 7;
const unsigned MXCSR_FLAGS = 0x3f;

/* An instruction on XMM registers, in SSE's encoding, as kernels are compiled, or in VEX, as the C library. */
struct Instruction {
    unsigned prefix;      /* 0, 0x66, 0xf3 or 0xf2 */
    unsigned extension;   /* highest bit of a register's number: 4 destination, 2 index, 1 source */
    unsigned map, opcode; /* map 1: 0f; 2: 0f 38; 3: 0f 3a; 0: none of these */
    unsigned other;       /* VEX: the register between destination and source */
    bool vex, wide;
    const unsigned char *modrm;
};

Instruction decode(const unsigned char *code) {
    static const unsigned prefixes[4] = {0, 0x66, 0xf3, 0xf2};
    Instruction i = {};
    if (*code == 0xc4 || *code == 0xc5) {
        i.vex = true;
        bool three = *code++ == 0xc4;
        i.extension = ~*code >> 5 & (three ? 7 : 4);
        i.map = three ? *code++ & 31 : 1;
        i.wide = three && *code >> 7;
        i.other = ~*code >> 3 & 15;
        i.prefix = prefixes[*code++ & 3];
    } else {
        while (*code == 0x66 || *code == 0xf2 || *code == 0xf3) i.prefix = *code++;
        if ((*code & 0xf0) == 0x40) i.extension = *code++ & 7;
        if (*code++ != 0x0f) return i;
        i.map = *code == 0x38 ? 2 : *code == 0x3a ? 3 : 1;
        if (i.map > 1) code++;
    }
    i.opcode = *code++;
    i.modrm = code;
    return i;
}

/* The instruction's memory operand; null for one of the code's own constants. */
const void *memory_operand(const ucontext_t *context, const Instruction &i) {
    static const int registers[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    const greg_t *value = context->uc_mcontext.gregs;
    unsigned mode = *i.modrm >> 6, rm = *i.modrm & 7;
    const unsigned char *code = i.modrm + 1;
    if (mode == 0 && rm == 5) return nullptr;
    uint64_t address = 0;
    bool base = true;
    if (rm == 4) {
        unsigned scale = *code >> 6, index = (*code >> 3 & 7) | (i.extension & 2) << 2;
        rm = *code & 7;
        code++;
        if (index != 4) address += (uint64_t)value[registers[index]] << scale;
        base = !(rm == 5 && mode == 0);
        if (!base) mode = 2;
    }
    if (base) address += (uint64_t)value[registers[rm | (i.extension & 1) << 3]];
    int32_t displacement = 0;
    if (mode == 1) displacement = (int8_t)*code;
    if (mode == 2) memcpy(&displacement, code, 4);
    return reinterpret_cast<const void *>(address + (uint64_t)(int64_t)displacement);
}

bool fused(const Instruction &i) {
    return i.map == 2 && i.opcode >= 0x96; /* vfmadd… */
}

/* Square roots, conversions and roundings only write their destination. */
bool reads_source_only(const Instruction &i) {
    return i.map == 3 ? i.opcode <= 0x0b : i.map == 1 && memchr("\x51\x5a\x5b\x2c\x2d\xe6", (int)i.opcode, 6);
}

/* Bytes of floats in an operand; none of doubles, where poison is an ordinary number. */
size_t operand_bytes(const Instruction &i) {
    if (fused(i)) return i.wide ? 0 : i.opcode & 1 ? 4 : 16;
    if (i.map == 3) return i.opcode == 0x08 ? 16 : i.opcode == 0x0a ? 4 : 0; /* roundps, roundss */
    if (i.opcode == 0x2e || i.opcode == 0x2f) return i.prefix ? 0 : 4;       /* ucomiss, comiss */
    if (i.opcode == 0x5b) return 16;                                         /* cvtps2dq */
    if (i.opcode == 0x5a && !i.prefix) return 8;                             /* cvtps2pd */
    return i.prefix == 0xf3 ? 4 : i.prefix ? 0 : 16;
}

/* Whether the instruction reads poison. Registers that it does not read may hold some: what filled memory
   leaves it there. */
bool reads_poison(const ucontext_t *context) {
    const Instruction i =
        decode(reinterpret_cast<const unsigned char *>(context->uc_mcontext.gregs[REG_RIP]));
    if (!i.map) return false;
    const _libc_xmmreg *xmm = context->uc_mcontext.fpregs->_xmm;
    const unsigned mode = *i.modrm >> 6;
    const void *source =
        mode == 3 ? &xmm[(*i.modrm & 7) | (i.extension & 1) << 3] : memory_operand(context, i);
    const void *destination = &xmm[(*i.modrm >> 3 & 7) | (i.extension & 4) << 1];
    const bool compares = i.map == 1 && (i.opcode == 0x2e || i.opcode == 0x2f);
    const size_t bytes = operand_bytes(i);
    if (source && is_poison(source, bytes)) return true;
    if (reads_source_only(i)) return false;
    if (i.vex && !compares && is_poison(&xmm[i.other], bytes)) return true;
    return (!i.vex || compares || fused(i)) && is_poison(destination, bytes);
}

void on_invalid(int, siginfo_t *info, void *data) {
    ucontext_t *context = static_cast<ucontext_t *>(data);
    if (info->si_code != FPE_FLTINV || !current) fault("arithmetic exception (integer division by zero?)");
    if (reads_poison(context)) poison_fault("float");
    context->uc_mcontext.fpregs->mxcsr |= MXCSR_INVALID_MASK;
    context->uc_mcontext.fpregs->mxcsr &= ~MXCSR_FLAGS;
}

#endif

void on_crash(int signal, siginfo_t *info, void *) {
    if (__sanitizer_print_stack_trace) __sanitizer_print_stack_trace();
    if (signal == SIGABRT) fault("aborted (a failed assertion?)");
    fault("%s at address %p (past an array's end, a host address, or the end of the thread's stack)",
          signal == SIGBUS ? "bus error" : "invalid access", info->si_addr);
}

/* The handlers stand only while device work runs; the host's own come back after it. */
const struct {
    int signal;
    void (*handler)(int, siginfo_t *, void *);
} handlers[] = {
#if defined(__x86_64__)
    {SIGFPE, on_invalid},
#endif
    {SIGABRT, on_crash},
    {SIGSEGV, on_crash},
    {SIGBUS, on_crash},
};
const size_t HANDLERS = sizeof handlers / sizeof handlers[0];
struct sigaction host_handlers[HANDLERS];

} // namespace

void fault(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fault_list(current, format, args);
}

void fault_at(const Thread *thread, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fault_list(thread, format, args);
}

void poison_fault(const char *what) {
    fault("reads uninitialised memory (%s poison)", what);
}

void poison_fill(void *memory, size_t bytes) {
    unsigned char *at = static_cast<unsigned char *>(memory);
    size_t head = bytes < 4 ? bytes : 4;
    memcpy(at, &POISON, head);
    /* By doubling, up to a piece that stays in the cache. */
    for (size_t done = head, piece; done < bytes; done += piece) {
        piece = done < 32768 ? done : 32768;
        if (piece > bytes - done) piece = bytes - done;
        memcpy(at + done, at, piece);
    }
}

void traps_begin() {
    static char stack[256 * 1024]; /* a fiber's own may have overflowed */
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, nullptr);
    for (size_t i = 0; i < HANDLERS; i++) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = handlers[i].handler;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(handlers[i].signal, &action, &host_handlers[i]);
    }
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(on_sanitizer_report);
}

void traps_end() {
    for (size_t i = 0; i < HANDLERS; i++) sigaction(handlers[i].signal, &host_handlers[i], nullptr);
}

void traps_on() {
#if defined(__x86_64__)
    unsigned state = __builtin_ia32_stmxcsr();
    if (state & (MXCSR_INVALID_MASK | MXCSR_FLAGS))
        __builtin_ia32_ldmxcsr(state & ~(MXCSR_INVALID_MASK | MXCSR_FLAGS));
#endif
}

} // namespace emu

/* UndefinedBehaviorSanitizer calls this by name: beside AddressSanitizer it does not see the death callback.
 */
void __ubsan_on_report(void) {
    emu::on_sanitizer_report();
}
