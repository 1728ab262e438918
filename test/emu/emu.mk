# CUDA on the host, included by the Makefile: kernels/cuda compiled by g++ against include/ (README.md), and the same again
# under the race checker.

# No -march: traps on poison read SSE code only.
EMU       := $(BUILD)/emu
EMU_FLAGS := -std=c++17 -O2 -g $(WARNINGS) -Wno-unknown-pragmas -fno-strict-aliasing -DEMULATION \
             -Itest/emu/include -Ikernels/cuda $(if $(STANDALONE),-Itest/standalone/include)
EMU_CHECK := $(if $(SANITIZE),-fsanitize=address$(comma)undefined -fno-sanitize-recover=all, \
                 -fsanitize=alignment -fno-sanitize-recover=alignment)
EMU_CORE  := $(patsubst test/emu/%.cpp,$(EMU)/%.o,$(filter-out test/emu/test_% %/nccl.cpp,$(wildcard test/emu/*.cpp)))
EMU_TESTS := $(patsubst test/emu/%.cpp,$(EMU)/%.o,$(filter-out %/test_race.cpp,$(wildcard test/emu/test_*.cpp)))
EMU_CUDA  := $(patsubst kernels/cuda/%.cu,$(EMU)/%.o,$(wildcard kernels/cuda/*.cu))
EMU_OPS   := $(patsubst $(BUILD)/test/%,$(EMU)/%,$(OPS))

# The emulated NCCL is a library over MPI, opened like the real one by who asks for collectives; it finds the engine in
# the program that opens it. RPATH goes before LD_LIBRARY_PATH, where the real one may be.
EMU_LIBS  := -lboost_context -ldl -rdynamic -Wl,--disable-new-dtags -Wl,-rpath,'$$ORIGIN:$$ORIGIN/emu:$$ORIGIN/build/emu'
RACE_LIBS := $(subst /emu,/race,$(EMU_LIBS))
MPICXX    ?= mpicxx
NCCL_OF   := OMPI_CXX="$(CXX)" $(MPICXX) -DOMPI_SKIP_MPICXX -MMD -MP -fPIC -shared -Wl,-soname,libnccl.so.2

$(EMU)/libnccl.so.2: test/emu/nccl.cpp
	@mkdir -p $(@D)
	$(NCCL_OF) $(EMU_FLAGS) $(EMU_CHECK) $< -o $@

$(EMU)/%.o: test/emu/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -c $< -o $@

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
EMU_HOST  := $(patsubst $(BUILD)/src/%,$(EMU)/%,$(filter %/device.o %/usage.o,$(HOST))) \
             $(filter-out %/device.o %/usage.o,$(HOST))
$(EMU)/train_gpt: $(EMU)/train_gpt.o $(EMU_HOST) $(CPU) $(EMU_CORE) $(EMU_CUDA)
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(LDLIBS) $(EMU_LIBS) -o $@

train_gpt_emu: $(EMU)/train_gpt
	cp $< $@

# The program with the plain loops in place of every kernel, bf16 among its types: what rounding alone does to a training.
PLAIN_TYPES := $(filter-out $(BUILD)/plain_LONG/%,$(PLAIN))
$(BUILD)/plain/train_gpt: $(EMU)/train_gpt.o $(EMU_HOST) $(PLAIN_TYPES) $(filter %/json.o,$(CPU))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -fopenmp $^ $(LDLIBS) -o $@ \
	    -Wl,--defsym=kernels_cpu_f32=kernels_plain_f32,--defsym=kernels_cpu_f64=kernels_plain_f64,--defsym=kernels_cpu_bf16=kernels_plain_bf16 \
	    -Wl,--defsym=kernels_cuda_f32=kernels_plain_f32,--defsym=kernels_cuda_bf16=kernels_plain_bf16

# The host's side of CUDA against the emulated device's lateness.
$(EMU)/host/%.o: test/emu/host/%.cu
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -x c++ -c $< -o $@

$(EMU)/host/%.o: test/emu/host/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/test_host_path: $(EMU)/host/test_host_path.o $(EMU)/host/planted.o $(EMU_CORE) $(EMU_CUDA) $(LIBRARY)
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(LDLIBS) $(CMOCKA) $(EMU_LIBS) -o $@

$(BUILD)/test_emu: $(EMU_TESTS) $(EMU_CORE) $(EMU)/cublaslt_load.o $(addprefix $(BUILD)/src/base/,check.o printable.o)
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(CMOCKA) $(EMU_LIBS) -o $@

$(BUILD)/test_ops_emu: $(EMU_OPS) $(PLAIN) $(EMU_CORE) $(EMU_CUDA) $(LIBRARY)
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(LDLIBS) $(CMOCKA) $(EMU_LIBS) -o $@

# The collectives, started once a rank (test/ranks).
$(EMU)/ranks/%.o: test/ranks/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -c $< -o $@

$(BUILD)/test_collective: $(BUILD)/test/ranks/test_collective.o
$(BUILD)/collective_faults: $(EMU)/ranks/collective_faults.o
$(BUILD)/test_collective $(BUILD)/collective_faults: $(BUILD)/test/ranks/ranks.o $(EMU_CORE) $(EMU_CUDA) $(LIBRARY) \
    | $(EMU)/libnccl.so.2
	$(CXX) $(EMU_CHECK) $(LDFLAGS) -fopenmp $^ $(LDLIBS) $(CMOCKA) $(EMU_LIBS) -o $@

$(BUILD)/training_emu: $(BUILD)/test/ranks/training.o $(BUILD)/test/variant_cases.o $(EMU_CORE) $(EMU_CUDA) $(LIBRARY) \
    | $(EMU)/libnccl.so.2
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

$(BUILD)/test_race: $(RACE)/test_race.o $(RACE_CORE) $(RACE)/cublaslt_load.o $(addprefix $(BUILD)/src/base/,check.o printable.o) $(RACE)/libnccl.so.2
	$(CXX) $^ -lcmocka $(RACE_LIBS) -o $@

$(BUILD)/test_ops_race: $(EMU_OPS) $(PLAIN) $(RACE_CORE) $(RACE_CUDA) $(LIBRARY)
	$(CXX) -fopenmp $^ $(LDLIBS) -lcmocka $(RACE_LIBS) -o $@

# The program whole, its host side as well: what the host does to pinned memory while copies may run.
RACE_HOST  = $(subst -O3,-O1,$(CFLAGS)) $(RACE_CALLS)

$(RACE)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(RACE_HOST) -D_GNU_SOURCE= -include test/emu/race_host.h -DWITH_CUDA -DVERSION='"$(VERSION)"' -MMD -MP -c $< -o $@

$(RACE)/src/ranks/rendezvous.o: CFLAGS += $(MPI_FLAGS)

$(RACE)/train_gpt.o: train_gpt.cu
	@mkdir -p $(@D)
	$(CC) $(RACE_HOST) -D_GNU_SOURCE= -include test/emu/race_host.h -DWITH_CUDA -MMD -MP -x c -c $< -o $@

$(RACE)/train_gpt: $(RACE)/train_gpt.o $(patsubst $(BUILD)/%,$(RACE)/%,$(HOST)) $(CPU) $(RACE_CORE) $(RACE_CUDA)
	$(CXX) -fopenmp $^ $(LDLIBS) $(RACE_LIBS) -o $@

# ------------------------------------------------------------------------------------------------ what people run

# The emulated suites are runs of their own: the CPU's are test_ops'.
EMU_SUITES := "$(BUILD)/test_ops_emu test --implementation cuda/f32" "$(BUILD)/test_ops_emu test --implementation cuda/bf16"
RACES      := $(BUILD)/test_race $(BUILD)/test_ops_race $(RACE)/train_gpt
TRAIN_EMU  := $(EMU)/train_gpt $(BUILD)/plain/train_gpt
COLLECTIVE := $(addprefix $(BUILD)/,test_collective collective_faults \
              $(if $(filter 1,$(MPI)),test_collective_cpu training_cpu training_emu))
# Where the scripted tests find them.
EMULATED   := TRAIN_GPT_EMU=$(EMU)/train_gpt TRAIN_GPT_PLAIN=$(BUILD)/plain/train_gpt TEST_COLLECTIVE=$(BUILD)/test_collective

emu: train_gpt_emu $(BUILD)/plain/train_gpt $(BUILD)/test_emu $(BUILD)/test_ops_emu $(BUILD)/test_host_path

# CUDA without a GPU: the emulation's own tests, the operation suite over both emulated types, collectives, training.
test-emu:
	@$(MAKE) --no-print-directory -j$(CORES) $(BUILD)/test_emu $(BUILD)/test_ops_emu $(TRAIN_EMU) $(COLLECTIVE)
	@$(EMULATED) $(PYTHON) test/run.py --jobs 2 $(BUILD)/test_emu $(EMU_SUITES) \
	    $(wildcard test/test_emulated_*.py) test/test_collective.py test/test_rendezvous.py

# No two accesses to memory that CUDA leaves unordered: planted races, then every kernel of kernels/cuda.
race:
	@$(MAKE) --no-print-directory -j$(CORES) $(RACES)
	@TEST_OPS_RACE=$(BUILD)/test_ops_race TRAIN_GPT_RACE=$(RACE)/train_gpt $(PYTHON) test/run.py $(BUILD)/test_race test/test_races.py
	@cat $(BUILD)/race_kernels.txt

.PHONY: emu test-emu race
