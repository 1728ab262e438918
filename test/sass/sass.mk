# The gate on the machine code, included by the Makefile (README.md). It reads the objects that `make` builds, where they
# hold code for sm_90, or else has its own.

SASS_FILES   := activation attention_mma attention_mma_backward columns cross_entropy embedding junction junction_backward \
                qkv step
SASS_OBJECTS := $(if $(filter 90,$(CUDA_ARCHS)),$(BUILD)/cuda,$(BUILD)/sass)
SASS_NEEDED  := $(addprefix $(SASS_OBJECTS)/,$(addsuffix .o,$(SASS_FILES)))
SASS_GATE    := $(if $(NVCC),NVCC='$(NVCC)') $(PYTHON) test/sass/gate.py

$(BUILD)/sass/%.o: kernels/cuda/%.cu
	@mkdir -p $(@D)
	$(NVCC) -std=c++17 -O3 -gencode arch=compute_90$(comma)code=sm_90 -Ikernels/cuda -MMD -MP -c $< -o $@

# Built where the gate can read them; a line says why not.
sass-objects:
	@if [ $(CUDA) != 1 ]; then echo "the gate on machine code is skipped: nvcc is not here, or not wanted"; \
	elif $(SASS_GATE) --ready; then $(MAKE) --no-print-directory -j$(CORES) $(SASS_NEEDED); fi

# Rows that are worse fail; SASS_ACCEPT='ROW ROW' has sass-write take them all the same, SASS_ANEW=1 every row.
sass: sass-objects
	@$(SASS_GATE) $(SASS_OBJECTS)

sass-write: $(SASS_NEEDED)
	@$(SASS_GATE) $(SASS_OBJECTS) --write $(addprefix --accept ,$(SASS_ACCEPT)) $(if $(SASS_ANEW),--anew)

.PHONY: sass sass-objects sass-write
