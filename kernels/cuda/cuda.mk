# The CUDA backend, included by the Makefile: how nvcc is found, what it compiles, and what runs on a machine with a GPU.

# nvcc from the path, or from where NVIDIA puts it. Of its libraries the runtime is linked; the others are opened when
# they are needed (library.cuh).
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
    CUDA_ARCHS  := $(sort $(filter $(KNOWN_ARCHS),$(LOCAL_ARCHS)))
# No GPU to ask: one architecture, as each takes as long as the first. 8.0's code runs on every 8.x; its PTX, which no kernel
# here needs to be newer, is compiled by the driver of a newer GPU at its first start, and kept.
ifeq ($(CUDA_ARCHS),)
    CUDA_ARCHS  := $(firstword $(filter 80,$(KNOWN_ARCHS)) $(KNOWN_ARCHS))
    CUDA_NOTE   := , and as PTX for newer ones: no GPU here says which; CUDA_ARCHS="80 90 100" holds code for more
endif
endif
    CUDA_NEWEST := $(shell printf '%s\n' $(CUDA_ARCHS) | sort -n | tail -n 1)
endif
CUDA_CODE    := $(foreach arch,$(CUDA_ARCHS),-gencode arch=compute_$(arch)$(comma)code=sm_$(arch)) \
                $(if $(CUDA_NEWEST),-gencode arch=compute_$(CUDA_NEWEST)$(comma)code=compute_$(CUDA_NEWEST))
CUDA_WERROR  := -Werror all-warnings
CUDA_FLAGS   := -std=c++17 -O3 $(CUDA_WERROR) -Xcompiler -Wall$(comma)-Wextra $(CUDA_CODE) -Ikernels/cuda \
                $(if $(STANDALONE),-Itest/standalone/include)
CUDA_LIBS    := $(foreach dir,$(CUDA_DIRS),-L$(dir) -Wl$(comma)-rpath$(comma)$(dir)) -lcudart_static -ldl -lrt
CUDA_OBJECTS := $(patsubst kernels/cuda/%.cu,$(BUILD)/cuda/%.o,$(wildcard kernels/cuda/*.cu))

# What the executable holds: it is linked again when that changes, and GPU code compiled again for other GPUs.
$(BUILD)/holds: TEXT = CUDA=$(CUDA)
$(BUILD)/cuda/archs: TEXT = $(CUDA_CODE)
$(BUILD)/holds $(BUILD)/cuda/archs $(BUILD)/version: FORCE
	@mkdir -p $(@D)
	@echo '$(TEXT)' | cmp -s - $@ || echo '$(TEXT)' > $@

# nvcc compiles kernels/cuda and the probe of a GPU, nothing else.
$(BUILD)/cuda/%.o: kernels/cuda/%.cu $(BUILD)/cuda/archs
	@mkdir -p $(@D)
	$(NVCC) $(CUDA_FLAGS) -MMD -MP -c $< -o $@

$(BUILD)/cuda/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DWITH_CUDA -MMD -MP -c $< -o $@

$(BUILD)/cuda/%.o: test/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DWITH_CUDA -MMD -MP -c $< -o $@

# Their directory is there: archs stands in it.
$(BUILD)/cuda/gpu_probe.o: test/gpu_probe.cu $(BUILD)/cuda/archs
	$(NVCC) $(CUDA_FLAGS) -MMD -MP -c $< -o $@

$(BUILD)/gpu_probe: $(BUILD)/cuda/gpu_probe.o $(CUDA_OBJECTS) $(LIBRARY)
	$(CXX) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CUDA_LIBS) -o $@

$(BUILD)/test_ops_cuda: $(patsubst $(BUILD)/test/%,$(BUILD)/cuda/%,$(OPS)) $(PLAIN) $(CUDA_OBJECTS) $(LIBRARY)
	$(CXX) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CUDA_LIBS) $(CMOCKA) -o $@

$(BUILD)/test_collective_cuda: $(addprefix $(BUILD)/test/ranks/,ranks.o test_collective.o) $(CUDA_OBJECTS) $(LIBRARY)
	$(CXX) -fopenmp $(LDFLAGS) $^ $(LDLIBS) $(CUDA_LIBS) $(CMOCKA) -o $@

# ------------------------------------------------------------------------------------------------ what people run

gpu_probe: $(BUILD)/gpu_probe
test_ops_cuda: $(BUILD)/test_ops_cuda

# On a machine with a GPU. gpu-binaries: what to carry to one where nothing shall be built (scripts/gpu/README.md).
gpu-check:
	@$(PYTHON) scripts/gpu_check.py $(GPU_CHECK)

# What a step would take, predicted: no GPU needed.
gpu-model:
	@$(PYTHON) scripts/gpu/model.py

gpu-model-write:
	@$(PYTHON) scripts/gpu/model.py --write

gpu-binaries:
	@$(PYTHON) scripts/gpu_check.py --build-only --build $(BUILD)/gpu-binaries --arch x86-64-v3 $(GPU_CHECK)

.PHONY: gpu_probe test_ops_cuda gpu-check gpu-binaries gpu-model gpu-model-write
