# make            train_gpt, with its CUDA backend where nvcc is found
# make test-quick one test of each promise, under two minutes: for each save
# make test       every test, in its short form; the last line is "N passed, M failed"
# make demo       synthetic data, two minutes of training, the loss against the language's entropy
# make bench      timings as JSON lines (half an hour)
# make help       the other targets
#
# ARCH=x86-64-v3 builds for other machines than this one; BUILD=dir builds elsewhere; SANITIZE=1 with ASan + UBSan;
# STANDALONE=1 without oneDNN, OpenBLAS, cJSON and cmocka (test/standalone/README.md).
# CUDA=0 leaves CUDA out; CUDA_ARCHS="80 90 100" builds for these GPUs (this machine's, or else 80, which newer ones take).
# PREFIX=/usr/local and DESTDIR= say where `make install` puts things.

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
CORES    := $(shell nproc 2>/dev/null || echo 2)
# git's word, if this is its checkout; of an exported tree what git has put into the file VERSION; the newest in CHANGELOG.md.
VERSION  := $(firstword $(if $(wildcard .git),$(shell git describe --tags --always --dirty 2>/dev/null)) \
                $(shell grep -v Format VERSION 2>/dev/null) \
                $(shell sed -n 's/^\#\# \[\([0-9][^]]*\)\].*/\1/p' CHANGELOG.md 2>/dev/null) unversioned)
PREFIX   ?= /usr/local

# An error where the project is checked (.ci/run sets WERROR), and none to whom a newer compiler has more to say. clang need not
# make vectors of all that gcc does.
WARNINGS := -Wall -Wextra -Wno-pass-failed $(if $(WERROR),-Werror)
# Checked builds take half as long to compile so, and their tests no longer.
OPTIMIZE := $(if $(SANITIZE),-O1,-O3) -march=$(ARCH) -fno-math-errno -fno-trapping-math
CFLAGS   += -std=gnu11 -g -fopenmp $(WARNINGS) $(OPTIMIZE) $(addprefix -I,$(wildcard /usr/include/openblas))
LDLIBS   += $(if $(STANDALONE),,-ldnnl -lopenblas -lcjson) -lmvec -lm -lpthread
# MPI, for several ranks on CPUs, where its compiler is found; MPI=0 leaves it out.
MPICC    ?= mpicc
ifeq ($(origin MPI),undefined)
    MPI  := $(if $(STANDALONE),0,$(if $(shell command -v $(MPICC) 2>/dev/null),1,0))
endif
ifeq ($(MPI),1)
    MPI_FLAGS := -DWITH_MPI $(patsubst -I%,-isystem %,$(filter -I%,$(shell $(MPICC) -show)))
    LDLIBS    += $(filter -L% -l% -Wl%,$(shell $(MPICC) -show))
endif
CMOCKA   := $(if $(STANDALONE),,-lcmocka)
ifdef SANITIZE
    CFLAGS  += -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
    LDFLAGS += -fsanitize=address,undefined
endif

HOST     := $(patsubst src/%.c,$(BUILD)/src/%.o,$(wildcard src/*/*.c))
CPU      := $(foreach type,f32 f64 bf16,$(patsubst kernels/cpu/%.c,$(BUILD)/cpu_$(type)/%.o,$(wildcard kernels/cpu/*.c)))
ifdef STANDALONE
    CFLAGS  += -Itest/standalone/include
    CPU     := $(filter-out %/product_bf16.o,$(CPU)) $(foreach part,json gemm_f32 gemm_f64 product_bf16,$(BUILD)/standalone/$(part).o)
endif
LIBRARY  := $(HOST) $(CPU)
PROGRAM  := $(if $(filter build,$(BUILD)),train_gpt,$(BUILD)/train_gpt)

all: $(PROGRAM)

# What the tests are made of.
PLAIN    := $(foreach type,F32 BF16 F64 LONG,$(patsubst test/%.c,$(BUILD)/plain_$(type)/%.o,$(wildcard test/ops_plain*.c)))
OPS      := $(patsubst test/%.c,$(BUILD)/test/%.o,$(filter-out test/ops_plain%,$(wildcard test/ops_*.c)) \
              test/test_ops.c test/implementations.c)
SINGLE   := $(filter-out test/test_ops.c,$(wildcard test/test_*.c))
TESTS    := $(patsubst test/%.c,$(BUILD)/%,$(SINGLE)) $(BUILD)/test_ops
SCRIPTED := $(wildcard test/test_*.py test/fuzz/test_*.py)

# The parts that not every build needs: the CUDA backend, its emulation on the host, fuzzing, the gate on machine code.
include kernels/cuda/cuda.mk test/emu/emu.mk test/fuzz/fuzz.mk test/sass/sass.mk
# Which test runs when.
include test/floors.mk

# ---------------------------------------------------------------------------------------------------- the program

ifeq ($(CUDA),1)
WITH_CUDA := $(addprefix $(BUILD)/cuda/,run/device.o settings/usage.o)
PARTS     := $(BUILD)/train_gpt.o $(filter-out %/device.o %/usage.o,$(HOST)) $(WITH_CUDA) $(CPU) $(CUDA_OBJECTS)
$(PROGRAM): $(PARTS) $(BUILD)/holds
	$(CXX) -fopenmp $(LDFLAGS) $(PARTS) $(LDLIBS) $(CUDA_LIBS) -o $@
	@echo "$@: for CPUs, and for GPUs of compute capability $(CUDA_ARCHS)$(CUDA_NOTE)"
else
PARTS     := $(BUILD)/train_gpt.o $(HOST) $(CPU)
$(PROGRAM): $(PARTS) $(BUILD)/holds
	$(CC) -fopenmp $(LDFLAGS) $(PARTS) $(LDLIBS) -o $@
	@echo "$@: for CPUs only ($(if $(NVCC),CUDA=$(CUDA),there is no nvcc))"
endif

# Before anything is compiled: what is missing, by its packages' names. Once a build folder.
MISSING := CC='$(CC)' CXX='$(CXX)' MPICXX='$(MPICXX)' CFLAGS='$(filter -I%,$(CFLAGS))' scripts/libraries.sh
$(BUILD)/has_%: scripts/libraries.sh scripts/packages.sh
	@mkdir -p $(@D)
	@$(if $(STANDALONE),,STANDALONE_HINT='$(STANDALONE_HINT)' $(MISSING) $* &&) touch $@
$(BUILD)/has_build: STANDALONE_HINT := ; or `make STANDALONE=1`, slower, without them
$(BUILD)/train_gpt.o $(HOST) $(CPU): | $(BUILD)/has_build
$(OPS) $(patsubst test/%.c,$(BUILD)/test/%.o,$(SINGLE)): | $(BUILD)/has_tests
$(EMU_CORE) $(EMU_TESTS) $(EMU_CUDA): | $(BUILD)/has_emulation

# The program and src/ are C11, whatever the extension says.
$(BUILD)/train_gpt.o: train_gpt.cu
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -x c -c $< -o $@

$(BUILD)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

# Which holds these files.
$(BUILD)/src/checkpoint/huggingface_code.o build/fuzz/src/checkpoint/huggingface_code.o: $(wildcard scripts/hf/*_train_gpt.py)

# Another commit is another version, though no source of it has changed.
$(BUILD)/version: TEXT = $(VERSION)
$(BUILD)/src/settings/usage.o $(BUILD)/cuda/settings/usage.o $(BUILD)/emu/settings/usage.o: $(BUILD)/version
$(BUILD)/src/settings/usage.o $(BUILD)/cuda/settings/usage.o: CFLAGS += -DVERSION='"$(VERSION)"'

# One source, three element types.
$(BUILD)/cpu_f32/%.o: kernels/cpu/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/cpu_f64/%.o: kernels/cpu/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DCPU_F64 -MMD -MP -c $< -o $@

$(BUILD)/cpu_bf16/%.o: kernels/cpu/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DCPU_BF16 -MMD -MP -c $< -o $@

$(foreach type,f32 f64 bf16,$(addprefix $(BUILD)/cpu_$(type)/,backend.o collective.o)): CFLAGS += $(MPI_FLAGS)
$(BUILD)/src/ranks/rendezvous.o: CFLAGS += $(MPI_FLAGS)

# In place of libraries, for machines that have none.
$(BUILD)/standalone/json.o: test/standalone/json.c
$(BUILD)/standalone/gemm_f32.o $(BUILD)/standalone/gemm_f64.o: test/standalone/gemm.c
$(BUILD)/standalone/gemm_f64.o: CFLAGS += -DCPU_F64
$(BUILD)/standalone/product_bf16.o: test/standalone/product_bf16.c
$(BUILD)/standalone/product_bf16.o: CFLAGS += -DCPU_BF16
$(BUILD)/standalone/%.o:
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

# ---------------------------------------------------------------------------------------------------- tests

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
$(addprefix $(BUILD)/test_,variants telemetry extremes variant_rules doc_mask): $(BUILD)/test/variant_cases.o
$(BUILD)/test_gradient_faults: $(addprefix $(BUILD)/test/,frozen_kernels.o gradient_check.o)

$(BUILD)/test_%: $(BUILD)/test/test_%.o $(LIBRARY)
	$(CC) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CMOCKA) -o $@

# The CPU's collectives, started once a rank.
$(BUILD)/test/ranks_cpu/%.o: test/ranks/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DRANKS_CPU -MMD -MP -c $< -o $@

$(BUILD)/test_collective_cpu: $(addprefix $(BUILD)/test/ranks_cpu/,ranks.o test_collective.o) $(LIBRARY)
	$(CC) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CMOCKA) -o $@

# Trainings on several ranks.
$(BUILD)/training_cpu: $(BUILD)/test/ranks_cpu/training.o $(BUILD)/test/variant_cases.o $(LIBRARY)
	$(CC) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CMOCKA) -o $@

$(BUILD)/bench_%: $(BUILD)/test/bench_%.o $(LIBRARY)
	$(CC) -fopenmp $(LDFLAGS) $^ $(LDLIBS) -o $@

# ------------------------------------------------------------------------------------------------ what people run

# What the tests need beside the programs that are tests themselves.
NEEDED := $(PROGRAM) $(TRAIN_EMU) $(RACES) $(EMU)/gpu_probe $(COLLECTIVE)
FOUND  := TRAIN_GPT=./$(PROGRAM) $(EMULATED) TEST_OPS_RACE=$(BUILD)/test_ops_race TRAIN_GPT_RACE=$(RACE)/train_gpt SASS_OBJECTS=$(SASS_OBJECTS)
RUN    := $(PYTHON) test/run.py --jobs $(CORES)
# The programs of runs.
programs = $(sort $(filter $(BUILD)/% build/asan/%,$(subst ", ,$(1))))
of       = $(filter $(1),$(call programs,$(2)))

# Builds first, on all cores; then the runs (test/floors.mk says which).
test-quick:
	@$(MAKE) -s --no-print-directory -j$(CORES) $(PROGRAM) $(TRAIN_EMU) $(call programs,$(QUICK))
	@$(FOUND) $(RUN) $(QUICK)

test: test-compilers
	@$(MAKE) --no-print-directory -j$(CORES) $(NEEDED) $(call of,$(BUILD)/test_%,$(TEST))
	@$(MAKE) --no-print-directory -j$(CORES) BUILD=build/asan SANITIZE=1 $(call of,build/asan/%,$(TEST))
	@$(MAKE) --no-print-directory fuzz-build sass-objects
	@$(FOUND) $(RUN) $(TEST_PAIRED) --alone $(TEST_ALONE)

test-all: test-compilers
	@$(MAKE) --no-print-directory -j$(CORES) $(NEEDED) $(call of,$(BUILD)/test_%,$(ALL))
	@$(MAKE) --no-print-directory -j$(CORES) BUILD=build/asan SANITIZE=1 $(call of,build/asan/%,$(ALL))
	@$(MAKE) --no-print-directory fuzz-build sass-objects
	@TEST_ALL=1 $(FOUND) $(RUN) $(ALL_PAIRED) --alone $(ALL_ALONE)

# PyTorch's own threads would be as many again.
HF_PYTHON  ?= $(PYTHON)
HF_MODULES := torch, transformers, pytest, numpy
test-hf: $(PROGRAM)
	@if $(HF_PYTHON) -c 'import $(HF_MODULES)' 2>/dev/null; then \
	    $(FOUND) $(HF_PYTHON) test/run.py --jobs $(CORES) $(HF); \
	else echo "test-hf is skipped: HF_PYTHON=$(HF_PYTHON) has not all of $(HF_MODULES) (PyPI has them)"; fi

# A line a run: its floor, and what it is.
floors:
	@printf 'quick\t%s\n' $(QUICK)
	@printf 'test\t%s\n' $(TEST)
	@printf 'all\t%s\n' $(ALL)
	@printf 'hf\t%s\n' $(HF)

# The other compilers, as far as they are here: no warning from any.
test-compilers: $(BUILD)/has_build $(BUILD)/has_tests
	@if command -v clang >/dev/null; then echo "clang: no warning allowed"; \
	    for type in F32 F64 BF16; do clang $(CLANG_FLAGS) $(MPI_FLAGS) -DCPU_$$type $(wildcard kernels/cpu/*.c) || exit 1; done; \
	    clang $(CLANG_FLAGS) $(wildcard src/*/*.c) $(filter-out test/ops_plain%,$(wildcard test/*.c test/ranks/*.c test/fuzz/*.c)) || exit 1; \
	    clang $(CLANG_FLAGS) -x c train_gpt.cu || exit 1; \
	else echo "clang is not here: skipped"; fi
	@echo "$(CC), without the libraries (test/standalone): no warning allowed"
	@$(CC) -std=gnu11 -fsyntax-only -fopenmp $(WARNINGS) -Werror -Itest/standalone/include -DVERSION='""' $(wildcard src/*/*.c) \
	    $(wildcard test/standalone/*.c) kernels/cpu/product.c test/test_ops.c test/ranks/test_collective.c
	@if [ $(CUDA) = 1 ]; then echo "nvcc: no warning allowed"; \
	    $(MAKE) --no-print-directory -j$(CORES) $(BUILD)/gpu_probe; \
	else echo "nvcc is not here, or not wanted: skipped"; fi
CLANG_FLAGS = -std=gnu11 -O1 -fsyntax-only -fopenmp $(WARNINGS) -Werror -march=$(ARCH)

demo: $(PROGRAM)
	@scripts/demo.sh

bench: $(PROGRAM) $(BUILD)/bench_step $(BUILD)/bench_muon $(BUILD)/bench_variant $(BUILD)/bench_loader $(BUILD)/bench_generate
	@$(BUILD)/bench_step gpt2-124m 4 256
	@$(BUILD)/bench_muon
	@$(BUILD)/bench_variant
	@$(BUILD)/bench_loader
	@$(BUILD)/bench_generate
	@$(PYTHON) test/bench_program.py ./$(PROGRAM)
	@$(PYTHON) test/bench_ranks.py ./$(PROGRAM)
	@$(PYTHON) test/bench_transformers.py ./$(PROGRAM)

# What has been built, as it is: nothing is compiled under sudo.
SHARED_FILES := $(wildcard data/*.py data/recipes/*.json scripts/plot.py scripts/picture.py scripts/to_*.py scripts/watching/*.* scripts/export.py scripts/hf/*.py scripts/sweep.py scripts/sweeps/*.py scripts/sweeps/*.toml scripts/sweeps/*.ini)
DOC_FILES    := README.md LICENSE CHANGELOG.md
SHARE        := $(DESTDIR)$(PREFIX)/share/train_gpt
DOC          := $(DESTDIR)$(PREFIX)/share/doc/train_gpt

install:
	@[ -x $(PROGRAM) ] || { echo "make install: there is no $(PROGRAM) yet: run make first" >&2; exit 2; }
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DOC)' $(foreach folder,$(sort $(dir $(SHARED_FILES))),'$(SHARE)/$(folder)')
	install -m 755 $(PROGRAM) '$(DESTDIR)$(PREFIX)/bin/train_gpt'
	for file in $(SHARED_FILES); do install -m $$([ -x $$file ] && echo 755 || echo 644) $$file '$(SHARE)'/$$file || exit 1; done
	install -m 644 $(DOC_FILES) '$(DOC)'
	ln -sf ../share/train_gpt/data/prepare.py '$(DESTDIR)$(PREFIX)/bin/train_gpt-prepare'
	ln -sf ../share/train_gpt/scripts/plot.py '$(DESTDIR)$(PREFIX)/bin/train_gpt-plot'

uninstall:
	rm -f $(foreach name,train_gpt train_gpt-prepare train_gpt-plot,'$(DESTDIR)$(PREFIX)/bin/$(name)')
	rm -rf '$(SHARE)' '$(DOC)'

version:
	@echo $(VERSION)

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile
	@echo "make test-all   every test in its long form, over an hour; make floors: what each floor runs"
	@echo "make test-hf    against PyTorch and transformers, where HF_PYTHON=python3 has them"
	@echo "make fuzz       the parsers of files under libFuzzer, FUZZ_SECONDS=30 each (test/fuzz/README.md)"
	@echo "make emu        train_gpt_emu, whose --device cuda runs on the host; its tests"
	@echo "make test-emu   CUDA without a GPU: the operation suite over both emulated types, training; make race: no race"
	@echo "make gpu-model  what a step would take on a GPU, predicted from the machine code (scripts/results/gpu-model.md); gpu-model-write"
	@echo "make sass       the kernels' machine code against its table, without a GPU (test/sass/README.md); make sass-write"
	@echo "make gpu-check  on a machine with a GPU: tests, memory checks, timings, PyTorch beside; GPU_CHECK='steps pytorch' some"
	@echo "make gpu_probe  build/gpu_probe, with nvcc: for the day a GPU is at hand"
	@echo "make install    what was built into PREFIX=/usr/local, under DESTDIR= if given; make uninstall removes it again"
	@echo "make version    the version that a build would have"
	@echo "make clean      removes what was built"

clean:
	rm -rf build train_gpt

FORCE:
.PHONY: FORCE all test test-quick test-all test-hf test-compilers floors demo bench install uninstall version help clean
.SECONDARY:

# Goals that build some of the same files, each in a make of its own, take turns, also under -j.
ifneq ($(word 2,$(filter test test-quick test-all emu test-emu race fuzz gpu-check,$(MAKECMDGOALS))),)
.NOTPARALLEL:
endif

-include $(wildcard $(BUILD)/*.d $(BUILD)/*/*.d $(BUILD)/*/*/*.d $(BUILD)/*/*/*/*.d $(FUZZ)/*/*.d $(FUZZ)/*/*/*.d)
