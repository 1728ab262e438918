# make            train_gpt, with its CUDA backend where nvcc is found
# make test       all tests of the default suite; the last line is "N passed, M failed"
# make demo       synthetic data, two minutes of training, the loss against the language's entropy
# make bench      timings as JSON lines (fifteen minutes)
# make help       the other targets
#
# ARCH=x86-64-v3 builds for other machines than this one; BUILD=dir builds elsewhere; SANITIZE=1 with ASan + UBSan;
# STANDALONE=1 without oneDNN, OpenBLAS, cJSON and cmocka (test/standalone/README.md).
# CUDA=0 leaves CUDA out; CUDA_ARCHS="90 100" builds for these GPUs (this machine's, or else 80, 90 and 100).

ifeq ($(origin CC),default)
    CC   := gcc
endif
ifeq ($(origin CXX),default)
    CXX  := g++
endif
ARCH     ?= native
BUILD    ?= build
PYTHON   ?= python3
comma    := ,
VERSION  := $(shell git describe --always --dirty 2>/dev/null || echo unversioned)

WARNINGS := -Wall -Wextra -Werror
OPTIMIZE := -O3 -march=$(ARCH) -fno-math-errno -fno-trapping-math
CFLAGS   += -std=gnu11 -g -fopenmp $(WARNINGS) $(OPTIMIZE)
LDLIBS   += $(if $(STANDALONE),,-ldnnl -lopenblas -lcjson) -lmvec -lm -lpthread
CMOCKA   := $(if $(STANDALONE),,-lcmocka)
ifdef SANITIZE
    CFLAGS  += -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
    LDFLAGS += -fsanitize=address,undefined
endif

# CUDA: nvcc from the path, or from where NVIDIA puts it. Of its libraries the runtime is linked; the others are opened
# when they are needed (kernels/cuda/library.cuh).
ifeq ($(origin NVCC),undefined)
    NVCC := $(firstword $(shell command -v nvcc) $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc))
endif
ifdef SANITIZE
    CUDA := 0
endif
ifeq ($(origin CUDA),undefined)
    CUDA := $(if $(NVCC),1,0)
endif
ifeq ($(CUDA),1)
    CUDA_ROOT  := $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC))))
    CUDA_DIRS  := $(firstword $(foreach dir,lib64 lib targets/$(shell uname -m)-linux/lib, \
                      $(patsubst %/libcudart_static.a,%,$(wildcard $(CUDA_ROOT)/$(dir)/libcudart_static.a))))
ifeq ($(origin CUDA_ARCHS),undefined)
    KNOWN_ARCHS := $(filter-out 7%,$(patsubst sm_%,%,$(shell $(NVCC) --list-gpu-code)))
    LOCAL_ARCHS := $(subst .,,$(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null))
    CUDA_ARCHS  := $(or $(sort $(filter $(KNOWN_ARCHS),$(LOCAL_ARCHS))),$(filter $(KNOWN_ARCHS),80 90 100))
endif
endif
CUDA_CODE    := $(foreach arch,$(CUDA_ARCHS),-gencode arch=compute_$(arch)$(comma)code=sm_$(arch))
CUDA_WERROR  := -Werror all-warnings
CUDA_FLAGS   := -std=c++17 -O3 $(CUDA_WERROR) -Xcompiler -Wall$(comma)-Wextra $(CUDA_CODE) -Ikernels/cuda
CUDA_LIBS    := $(foreach dir,$(CUDA_DIRS),-L$(dir) -Wl$(comma)-rpath$(comma)$(dir)) -lcudart_static -ldl -lrt
CUDA_OBJECTS := $(patsubst kernels/cuda/%.cu,$(BUILD)/cuda/%.o,$(wildcard kernels/cuda/*.cu))

HOST     := $(patsubst src/%.c,$(BUILD)/src/%.o,$(wildcard src/*.c))
CPU      := $(foreach type,f32 f64,$(patsubst kernels/cpu/%.c,$(BUILD)/cpu_$(type)/%.o,$(wildcard kernels/cpu/*.c)))
ifdef STANDALONE
    CFLAGS     += -Itest/standalone/include
    CUDA_FLAGS += -Itest/standalone/include
    CPU        += $(BUILD)/standalone/json.o $(BUILD)/standalone/gemm_f32.o $(BUILD)/standalone/gemm_f64.o
endif
PROGRAM  := $(if $(filter build,$(BUILD)),train_gpt,$(BUILD)/train_gpt)

all: $(PROGRAM)

# What the executable holds: it is linked again when that changes, and GPU code compiled again for other GPUs.
$(BUILD)/holds: TEXT = CUDA=$(CUDA)
$(BUILD)/cuda/archs: TEXT = $(CUDA_ARCHS)
$(BUILD)/holds $(BUILD)/cuda/archs: FORCE
	@mkdir -p $(@D)
	@echo '$(TEXT)' | cmp -s - $@ || echo '$(TEXT)' > $@

ifeq ($(CUDA),1)
WITH_CUDA := $(addprefix $(BUILD)/cuda/,device.o config.o)
PARTS     := $(BUILD)/train_gpt.o $(filter-out %/device.o %/config.o,$(HOST)) $(WITH_CUDA) $(CPU) $(CUDA_OBJECTS)
$(PROGRAM): $(PARTS) $(BUILD)/holds
	$(CXX) -fopenmp $(LDFLAGS) $(PARTS) $(LDLIBS) $(CUDA_LIBS) -o $@
	@echo "$@: for CPUs, and for GPUs of compute capability $(CUDA_ARCHS)"
else
PARTS     := $(BUILD)/train_gpt.o $(HOST) $(CPU)
$(PROGRAM): $(PARTS) $(BUILD)/holds
	$(CC) -fopenmp $(LDFLAGS) $(PARTS) $(LDLIBS) -o $@
	@echo "$@: for CPUs only ($(if $(NVCC),CUDA=$(CUDA),there is no nvcc))"
endif

# The program and src/ are C11, whatever the extension says.
$(BUILD)/train_gpt.o: train_gpt.cu
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -x c -c $< -o $@

$(BUILD)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/src/config.o $(BUILD)/cuda/config.o: CFLAGS += -DVERSION='"$(VERSION)"'

# nvcc compiles kernels/cuda and the probe of a GPU, nothing else.
$(BUILD)/cuda/%.o: kernels/cuda/%.cu $(BUILD)/cuda/archs
	@mkdir -p $(@D)
	$(NVCC) $(CUDA_FLAGS) -MMD -MP -c $< -o $@

$(BUILD)/cuda/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DWITH_CUDA -MMD -MP -c $< -o $@

# One source, two element types.
$(BUILD)/cpu_f32/%.o: kernels/cpu/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/cpu_f64/%.o: kernels/cpu/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DCPU_F64 -MMD -MP -c $< -o $@

# In place of libraries, for machines that have none.
$(BUILD)/standalone/json.o: test/standalone/json.c
$(BUILD)/standalone/gemm_f32.o $(BUILD)/standalone/gemm_f64.o: test/standalone/gemm.c
$(BUILD)/standalone/gemm_f64.o: CFLAGS += -DCPU_F64
$(BUILD)/standalone/%.o:
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

# ---------------------------------------------------------------------------------------------------- tests

PLAIN    := $(foreach type,F32 BF16 F64 LONG,$(patsubst test/%.c,$(BUILD)/plain_$(type)/%.o,$(wildcard test/ops_plain*.c)))
OPS      := $(patsubst test/%.c,$(BUILD)/test/%.o,$(filter-out test/ops_plain%,$(wildcard test/ops_*.c)) \
              test/test_ops.c test/implementations.c)
SINGLE   := $(filter-out test/test_ops.c,$(wildcard test/test_*.c))
TESTS    := $(patsubst test/%.c,$(BUILD)/%,$(SINGLE)) $(BUILD)/test_ops
SCRIPTED := $(wildcard test/test_*.py test/fuzz/test_*.py)
LIBRARY  := $(HOST) $(CPU)

$(BUILD)/test/%.o: test/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

# The plain loops, in four number models: the errors that others are measured by must not hang on which products the
# compiler fuses.
define plain_rule
$(BUILD)/plain_$(1)/%.o: test/%.c
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS) -ffp-contract=off -DPLAIN_$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach type,F32 BF16 F64 LONG,$(eval $(call plain_rule,$(type))))

$(BUILD)/test_ops: $(OPS) $(PLAIN) $(LIBRARY)
	$(CC) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CMOCKA) -o $@

# What tests of whole models share beside the library.
$(BUILD)/test_gradients: $(addprefix $(BUILD)/test/,frozen_kernels.o gradient_check.o variant_cases.o)
$(BUILD)/test_variants $(BUILD)/test_extremes $(BUILD)/test_variant_rules: $(BUILD)/test/variant_cases.o
$(BUILD)/test_gradient_faults: $(addprefix $(BUILD)/test/,frozen_kernels.o gradient_check.o)

$(BUILD)/test_%: $(BUILD)/test/test_%.o $(LIBRARY)
	$(CC) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CMOCKA) -o $@

$(BUILD)/bench_%: $(BUILD)/test/bench_%.o $(LIBRARY)
	$(CC) -fopenmp $(LDFLAGS) $^ $(LDLIBS) -o $@

# CUDA on the host: kernels/cuda compiled by g++ against test/emu/include (test/emu/README.md). No -march: traps on
# poison read SSE code only.
EMU       := $(BUILD)/emu
EMU_FLAGS := -std=c++17 -O2 -g $(WARNINGS) -Wno-unknown-pragmas -fno-strict-aliasing -DEMULATION \
             -Itest/emu/include -Ikernels/cuda $(if $(STANDALONE),-Itest/standalone/include)
EMU_CHECK := $(if $(SANITIZE),-fsanitize=address$(comma)undefined -fno-sanitize-recover=all,-fsanitize=alignment -fno-sanitize-recover=alignment)
EMU_CORE  := $(patsubst test/emu/%.cpp,$(EMU)/%.o,$(filter-out test/emu/test_% %/nccl.cpp,$(wildcard test/emu/*.cpp)))
EMU_TESTS := $(patsubst test/emu/%.cpp,$(EMU)/%.o,$(filter-out %/test_race.cpp,$(wildcard test/emu/test_*.cpp)))
EMU_CUDA  := $(patsubst kernels/cuda/%.cu,$(EMU)/%.o,$(wildcard kernels/cuda/*.cu))
EMU_OPS   := $(patsubst $(BUILD)/test/%,$(EMU)/%,$(OPS))
# The emulated NCCL is a library over MPI, opened like the real one by who asks for collectives; it finds the engine in
# the program that opens it. RPATH goes before LD_LIBRARY_PATH, where the real one may be.
EMU_LIBS  := -lboost_context -ldl -rdynamic -Wl,--disable-new-dtags -Wl,-rpath,'$$ORIGIN:$$ORIGIN/emu:$$ORIGIN/build/emu'
RACE_LIBS := $(subst /emu,/race,$(EMU_LIBS))
MPICXX    ?= mpicxx
NCCL_OF   := OMPI_CXX=$(CXX) $(MPICXX) -DOMPI_SKIP_MPICXX -MMD -MP -fPIC -shared -Wl,-soname,libnccl.so.2

$(EMU)/%.o: test/emu/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -c $< -o $@

$(EMU)/libnccl.so.2: test/emu/nccl.cpp
	@mkdir -p $(@D)
	$(NCCL_OF) $(EMU_FLAGS) $(EMU_CHECK) $< -o $@

$(EMU)/%.o: kernels/cuda/%.cu
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -x c++ -c $< -o $@

$(EMU)/%.o: test/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DWITH_EMULATION -MMD -MP -c $< -o $@

$(EMU)/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DWITH_CUDA -DVERSION='"$(VERSION)"' -MMD -MP -c $< -o $@

$(EMU)/train_gpt.o: train_gpt.cu
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DWITH_CUDA -MMD -MP -x c -c $< -o $@

# The program with its CUDA path on the host: --device cuda is the emulation.
EMU_HOST  := $(patsubst $(BUILD)/src/%,$(EMU)/%,$(filter %/device.o %/config.o,$(HOST))) \
             $(filter-out %/device.o %/config.o,$(HOST))
$(EMU)/train_gpt: $(EMU)/train_gpt.o $(EMU_HOST) $(CPU) $(EMU_CORE) $(EMU_CUDA)
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(LDLIBS) $(EMU_LIBS) -o $@

train_gpt_emu: $(EMU)/train_gpt
	cp $< $@

# The host's side of CUDA against the emulated device's lateness.
$(EMU)/host/%.o: test/emu/host/%.cu
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -x c++ -c $< -o $@

$(EMU)/host/%.o: test/emu/host/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/test_host_path: $(EMU)/host/test_host_path.o $(EMU)/host/planted.o $(EMU_CORE) $(EMU_CUDA) $(LIBRARY)
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(LDLIBS) $(CMOCKA) $(EMU_LIBS) -o $@

$(BUILD)/test_emu: $(EMU_TESTS) $(EMU_CORE) $(EMU)/cublaslt_load.o $(BUILD)/src/check.o
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(CMOCKA) $(EMU_LIBS) -o $@

$(BUILD)/test_ops_emu: $(EMU_OPS) $(PLAIN) $(EMU_CORE) $(EMU_CUDA) $(LIBRARY)
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(LDLIBS) $(CMOCKA) $(EMU_LIBS) -o $@

# The collectives, started once a rank (test/ranks).
RANKS := $(BUILD)/test/ranks/ranks.o

$(EMU)/ranks/%.o: test/ranks/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -c $< -o $@

$(BUILD)/test_collective: $(BUILD)/test/ranks/test_collective.o
$(BUILD)/collective_faults: $(EMU)/ranks/collective_faults.o
$(BUILD)/test_collective $(BUILD)/collective_faults: $(RANKS) $(EMU_CORE) $(EMU_CUDA) $(LIBRARY) | $(EMU)/libnccl.so.2
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(LDLIBS) $(CMOCKA) $(EMU_LIBS) -o $@

# The probe of a GPU, to check itself (--tiny).
$(EMU)/gpu_probe.o: test/gpu_probe.cu
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -x c++ -c $< -o $@

$(EMU)/gpu_probe: $(EMU)/gpu_probe.o $(EMU_CORE) $(EMU_CUDA) $(LIBRARY)
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(LDLIBS) $(EMU_LIBS) -o $@

# The race checker: the same again with the compiler's calls before each access to memory (-fsanitize=thread), which
# test/emu/race_calls.cpp answers; never linked with the sanitizer's own library.
RACE       := $(BUILD)/race
RACE_FLAGS := $(EMU_FLAGS) -DEMU_RACE
RACE_CALLS := -fsanitize=thread --param tsan-instrument-func-entry-exit=0
RACE_CORE  := $(patsubst $(EMU)/%,$(RACE)/%,$(EMU_CORE))
RACE_CUDA  := $(patsubst $(EMU)/%,$(RACE)/%,$(EMU_CUDA))

$(RACE)/cublaslt.o $(RACE)/test_race.o: RACE_FLAGS += $(RACE_CALLS)

$(RACE)/%.o: test/emu/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(RACE_FLAGS) -MMD -MP -c $< -o $@

$(RACE)/%.o: kernels/cuda/%.cu
	@mkdir -p $(@D)
	$(CXX) $(RACE_FLAGS) $(RACE_CALLS) -MMD -MP -x c++ -c $< -o $@

$(RACE)/libnccl.so.2: test/emu/nccl.cpp
	@mkdir -p $(@D)
	$(NCCL_OF) $(RACE_FLAGS) $< -o $@

$(BUILD)/test_race: $(RACE)/test_race.o $(RACE_CORE) $(RACE)/cublaslt_load.o $(BUILD)/src/check.o $(RACE)/libnccl.so.2
	$(CXX) $^ -lcmocka $(RACE_LIBS) -o $@

$(BUILD)/test_ops_race: $(EMU_OPS) $(PLAIN) $(RACE_CORE) $(RACE_CUDA) $(LIBRARY)
	$(CXX) -fopenmp $^ $(LDLIBS) -lcmocka $(RACE_LIBS) -o $@

# The program whole, its host side as well: what the host does to pinned memory while copies may run.
$(RACE)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(RACE_CALLS) -D_GNU_SOURCE= -include test/emu/race_host.h -DWITH_CUDA -DVERSION='"$(VERSION)"' -MMD -MP -c $< -o $@

$(RACE)/train_gpt.o: train_gpt.cu
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(RACE_CALLS) -D_GNU_SOURCE= -include test/emu/race_host.h -DWITH_CUDA -MMD -MP -x c -c $< -o $@

$(RACE)/train_gpt: $(RACE)/train_gpt.o $(patsubst $(BUILD)/%,$(RACE)/%,$(HOST)) $(CPU) $(RACE_CORE) $(RACE_CUDA)
	$(CXX) -fopenmp $^ $(LDLIBS) $(RACE_LIBS) -o $@

# The executable's objects stand above, where they are linked.
$(BUILD)/cuda/gpu_probe.o: test/gpu_probe.cu $(BUILD)/cuda/archs
	$(NVCC) $(CUDA_FLAGS) -MMD -MP -c $< -o $@

$(BUILD)/gpu_probe: $(BUILD)/cuda/gpu_probe.o $(CUDA_OBJECTS) $(LIBRARY)
	$(CXX) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CUDA_LIBS) -o $@

$(BUILD)/test_ops_cuda: $(patsubst $(BUILD)/test/%,$(BUILD)/cuda/%,$(OPS)) $(PLAIN) $(CUDA_OBJECTS) $(LIBRARY)
	$(CXX) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CUDA_LIBS) $(CMOCKA) -o $@

$(BUILD)/test_collective_cuda: $(BUILD)/test/ranks/test_collective.o $(RANKS) $(CUDA_OBJECTS) $(LIBRARY)
	$(CXX) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CUDA_LIBS) $(CMOCKA) -o $@

$(BUILD)/cuda/%.o: test/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DWITH_CUDA -MMD -MP -c $< -o $@

# Fuzzing (test/fuzz/README.md): each parser under libFuzzer, and in `make test` what it once found, with gcc alone.
FUZZ         := build/fuzz
FUZZ_CLANG   ?= clang
FUZZ_SECONDS ?= 30
FUZZ_CJSON   ?=# a cJSON.c to instrument as well; otherwise the library as it is installed
FUZZ_CHECKS  := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
FUZZ_FLAGS   := -std=gnu11 -g -O1 $(WARNINGS) $(FUZZ_CHECKS)
FUZZ_SHARED  := $(filter-out test/fuzz/fuzz_% test/fuzz/replay.c,$(wildcard test/fuzz/*.c))
FUZZ_HOST    := $(patsubst src/%.c,$(FUZZ)/src/%.o,$(wildcard src/*.c))
FUZZ_NAMES   := $(patsubst test/fuzz/fuzz_%.c,%,$(wildcard test/fuzz/fuzz_*.c))
FUZZ_TEXT    := tokenizer jsonl packed pieces shard
FUZZ_TARGETS := $(patsubst %,$(FUZZ)/fuzz_%,$(FUZZ_NAMES))

$(FUZZ)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(FUZZ_CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -MMD -MP -c $< -o $@

$(FUZZ)/test/%.o: test/fuzz/%.c
	@mkdir -p $(@D)
	$(FUZZ_CLANG) $(FUZZ_FLAGS) -MMD -MP -c $< -o $@

# Archives, so that a target holds only what it reaches: less to instrument, faster to run.
$(FUZZ)/host.a: $(FUZZ_HOST)
	@rm -f $@
	ar rcs $@ $^

$(FUZZ)/shared.a: $(patsubst test/fuzz/%.c,$(FUZZ)/test/%.o,$(FUZZ_SHARED))
	@rm -f $@
	ar rcs $@ $^

$(FUZZ)/cpu.a: $(CPU)
	@rm -f $@
	ar rcs $@ $^

$(FUZZ)/cjson.o: $(FUZZ_CJSON)
	$(FUZZ_CLANG) -g -O1 $(FUZZ_CHECKS) -fsanitize=fuzzer-no-link -c $< -o $@

$(FUZZ)/fuzz_%: $(FUZZ)/test/fuzz_%.o $(FUZZ)/shared.a $(FUZZ)/host.a $(FUZZ)/cpu.a $(if $(FUZZ_CJSON),$(FUZZ)/cjson.o)
	$(FUZZ_CLANG) $(FUZZ_CHECKS) -fsanitize=fuzzer -Wl,--wrap=fail $^ -fopenmp=libgomp $(LDLIBS) -o $@

FUZZ_PROBE   := int LLVMFuzzerTestOneInput(const unsigned char *data, unsigned long size) { return data && size > 99; }

fuzz-build: $(CPU)
	@mkdir -p $(FUZZ)
	@if echo '$(FUZZ_PROBE)' | $(FUZZ_CLANG) -fsanitize=fuzzer,address -x c - -o $(FUZZ)/probe 2>/dev/null; then \
	    $(MAKE) --no-print-directory -j$(CORES) $(FUZZ_TARGETS); \
	else rm -f $(FUZZ_TARGETS); echo "$(FUZZ_CLANG) with libFuzzer is not here: fuzzing is skipped"; fi

fuzz: fuzz-build
	@$(PYTHON) test/fuzz/fuzz.py --seconds $(FUZZ_SECONDS) $(FUZZ_NAMES) $(patsubst %,text_%,$(FUZZ_TEXT))

# The committed inputs again, each target's in one run.
REPLAYS      := $(foreach name,$(FUZZ_NAMES),"build/asan/replay_$(name) $(wildcard test/fuzz/corpus/$(name) test/fuzz/regressions/$(name))")

$(BUILD)/replay_%: $(BUILD)/test/fuzz/fuzz_%.o $(patsubst %.c,$(BUILD)/%.o,test/fuzz/replay.c $(FUZZ_SHARED)) $(LIBRARY)
	$(CC) -fopenmp $(LDFLAGS) -Wl,--wrap=fail $^ $(LDLIBS) -o $@

# ------------------------------------------------------------------------------------------------ what people run

# A run is a program with its arguments. The emulated suites are runs of their own: the CPU's are test_ops'.
BINARIES   := $(TESTS) $(BUILD)/test_emu $(BUILD)/test_host_path
COLLECTIVE := $(BUILD)/test_collective $(BUILD)/collective_faults
# Where the scripted tests find the emulated programs.
EMULATED   := TRAIN_GPT_EMU=$(EMU)/train_gpt TEST_COLLECTIVE=$(BUILD)/test_collective
RACES      := $(BUILD)/test_race $(BUILD)/test_ops_race $(RACE)/train_gpt
EMU_SUITES := "$(BUILD)/test_ops_emu test --implementation cuda/f32" "$(BUILD)/test_ops_emu test --implementation cuda/bf16"
# test_gradients runs no code that test_variants does not, only more often.
SANITIZED  := $(patsubst $(BUILD)/%,build/asan/%,$(filter-out $(BUILD)/test_gradients $(BUILD)/test_host_path,$(BINARIES)))
REPLAY     := $(patsubst %,build/asan/replay_%,$(FUZZ_NAMES))
FUZZING    := "$(PYTHON) test/fuzz/fuzz.py --seconds $(FUZZ_SECONDS) $(FUZZ_NAMES)"

# Builds first, on all cores; then the runs, one after the other.
test: test-compilers
	@$(MAKE) --no-print-directory -j$(CORES) $(PROGRAM) $(BINARIES) $(BUILD)/test_ops_emu $(EMU)/train_gpt $(RACES) \
	    $(EMU)/gpu_probe $(COLLECTIVE)
	@$(MAKE) --no-print-directory -j$(CORES) BUILD=build/asan SANITIZE=1 $(SANITIZED) $(REPLAY)
	@$(MAKE) --no-print-directory fuzz-build
	@TRAIN_GPT=./$(PROGRAM) $(EMULATED) TEST_OPS_RACE=$(BUILD)/test_ops_race TRAIN_GPT_RACE=$(RACE)/train_gpt \
	    $(PYTHON) test/run.py $(BINARIES) $(BUILD)/test_race $(EMU_SUITES) $(SCRIPTED) $(SANITIZED) $(REPLAYS) $(FUZZING)
CORES := $(shell nproc 2>/dev/null || echo 2)

# What takes too long for every change: the emulated suites under the sanitizers and other orders of blocks, the long
# forms of the scripted tests.
test-all: test
	@$(MAKE) --no-print-directory -j$(CORES) BUILD=build/asan SANITIZE=1 build/asan/test_ops_emu
	@TEST_ALL=1 TRAIN_GPT=./$(PROGRAM) $(EMULATED) $(PYTHON) test/run.py $(BUILD)/test_gradients $(SCRIPTED) \
	    "build/asan/test_ops_emu test --implementation cuda/f32" "build/asan/test_ops_emu test --implementation cuda/bf16"
	@for seed in 1 2 3; do EMU_SEED=$$seed $(PYTHON) test/run.py $(EMU_SUITES) || exit 1; done

# CUDA without a GPU: the emulation's own tests, the operation suite over both emulated types, collectives, training.
test-emu:
	@$(MAKE) --no-print-directory -j$(CORES) $(BUILD)/test_emu $(BUILD)/test_ops_emu $(EMU)/train_gpt $(COLLECTIVE)
	@$(EMULATED) $(PYTHON) test/run.py --jobs 2 $(BUILD)/test_emu $(EMU_SUITES) \
	    test/test_emulated_training.py test/test_collective.py

# No two accesses to memory that CUDA leaves unordered: planted races, then every kernel of kernels/cuda.
race:
	@$(MAKE) --no-print-directory -j$(CORES) $(RACES)
	@TEST_OPS_RACE=$(BUILD)/test_ops_race TRAIN_GPT_RACE=$(RACE)/train_gpt $(PYTHON) test/run.py $(BUILD)/test_race test/test_races.py
	@cat $(BUILD)/race_kernels.txt

# The other compilers, as far as they are here: no warning from any.
test-compilers:
	@if command -v clang >/dev/null; then echo "clang: no warning allowed"; \
	    for type in F32 F64; do clang $(CLANG_FLAGS) -DCPU_$$type $(wildcard kernels/cpu/*.c) || exit 1; done; \
	    clang $(CLANG_FLAGS) $(wildcard src/*.c) $(filter-out test/ops_plain%,$(wildcard test/*.c test/ranks/*.c test/fuzz/*.c)) || exit 1; \
	    clang $(CLANG_FLAGS) -x c train_gpt.cu || exit 1; \
	else echo "clang is not here: skipped"; fi
	@echo "$(CC), without the libraries (test/standalone): no warning allowed"
	@$(CC) -std=gnu11 -fsyntax-only -fopenmp $(WARNINGS) -Itest/standalone/include -DVERSION='""' $(wildcard src/*.c) \
	    $(wildcard test/standalone/*.c) kernels/cpu/linear.c test/test_ops.c
	@if [ $(CUDA) = 1 ]; then echo "nvcc: no warning allowed"; \
	    $(MAKE) --no-print-directory -j$(CORES) $(BUILD)/gpu_probe; \
	else echo "nvcc is not here, or not wanted: skipped"; fi
CLANG_FLAGS = -std=gnu11 -O1 -fsyntax-only -fopenmp $(WARNINGS) -march=$(ARCH)

demo: $(PROGRAM)
	@scripts/demo.sh

bench: $(PROGRAM) $(BUILD)/bench_step $(BUILD)/bench_variant $(BUILD)/bench_loader
	@$(BUILD)/bench_step gpt2-124m 4 256
	@$(BUILD)/bench_variant
	@$(BUILD)/bench_loader
	@$(PYTHON) test/bench_program.py ./$(PROGRAM)

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile
	@echo "make test-all   what takes too long for every change as well"
	@echo "make fuzz       the parsers of files under libFuzzer, FUZZ_SECONDS=30 each (test/fuzz/README.md)"
	@echo "make emu        train_gpt_emu, whose --device cuda runs on the host; its tests"
	@echo "make test-emu   CUDA without a GPU: the operation suite over both emulated types, training; make race: no race"
	@echo "make gpu-check  on a machine with a GPU: tests, memory checks, timings, PyTorch beside; GPU_CHECK='steps pytorch' some"
	@echo "make gpu_probe  build/gpu_probe, with nvcc: for the day a GPU is at hand"
	@echo "make clean      removes what was built"

gpu_probe: $(BUILD)/gpu_probe
test_ops_cuda: $(BUILD)/test_ops_cuda

# On a machine with a GPU. gpu-binaries: what to carry to one where nothing shall be built (scripts/gpu/README.md).
gpu-check:
	@$(PYTHON) scripts/gpu_check.py $(GPU_CHECK)

gpu-binaries:
	@$(PYTHON) scripts/gpu_check.py --build-only --build $(BUILD)/gpu-binaries --arch x86-64-v3 $(GPU_CHECK)

emu: train_gpt_emu $(BUILD)/test_emu $(BUILD)/test_ops_emu $(BUILD)/test_host_path

clean:
	rm -rf build train_gpt

FORCE:
.PHONY: FORCE all test test-all test-emu race test-compilers fuzz fuzz-build demo bench help emu clean gpu_probe test_ops_cuda
.PHONY: gpu-check gpu-binaries
.SECONDARY:

-include $(wildcard $(BUILD)/*.d $(BUILD)/*/*.d $(BUILD)/*/*/*.d $(FUZZ)/*/*.d)
