# make            train_gpt
# make test       all tests of the default suite; the last line is "N passed, M failed"
# make demo       synthetic data, two minutes of training, the loss against the language's entropy
# make bench      timings as JSON lines
# make help       the other targets
#
# ARCH=x86-64-v3 builds for other machines than this one; BUILD=dir builds elsewhere; SANITIZE=1 with ASan + UBSan.

ifeq ($(origin CC),default)
    CC   := gcc
endif
ifeq ($(origin CXX),default)
    CXX  := g++
endif
ARCH     ?= native
BUILD    ?= build
PYTHON   ?= python3
VERSION  := $(shell git describe --always --dirty 2>/dev/null || echo unversioned)

WARNINGS := -Wall -Wextra -Werror
OPTIMIZE := -O3 -march=$(ARCH) -fno-math-errno -fno-trapping-math
CFLAGS   += -std=gnu11 -g -fopenmp $(WARNINGS) $(OPTIMIZE)
LDLIBS   += -ldnnl -lopenblas -lcjson -lmvec -lm -lpthread
ifdef SANITIZE
    CFLAGS  += -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
    LDFLAGS += -fsanitize=address,undefined
endif

HOST     := $(patsubst src/%.c,$(BUILD)/src/%.o,$(wildcard src/*.c))
CPU      := $(foreach type,f32 f64,$(patsubst kernels/cpu/%.c,$(BUILD)/cpu_$(type)/%.o,$(wildcard kernels/cpu/*.c)))
PROGRAM  := $(if $(filter build,$(BUILD)),train_gpt,$(BUILD)/train_gpt)

all: $(PROGRAM)

$(PROGRAM): $(BUILD)/train_gpt.o $(HOST) $(CPU)
	$(CC) -fopenmp $(LDFLAGS) $^ $(LDLIBS) -o $@

# The program and src/ are C11, whatever the extension says.
$(BUILD)/train_gpt.o: train_gpt.cu
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -x c -c $< -o $@

$(BUILD)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/src/config.o: CFLAGS += -DVERSION='"$(VERSION)"'

# One source, two element types.
$(BUILD)/cpu_f32/%.o: kernels/cpu/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/cpu_f64/%.o: kernels/cpu/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DCPU_F64 -MMD -MP -c $< -o $@

-include $(wildcard $(BUILD)/*.d $(BUILD)/*/*.d)
