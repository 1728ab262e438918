# The three floors of the tests, included by the Makefile (README.md says how long each takes). `make floors` prints them.
#
# A run is what run.py takes: a program with its arguments, or a .py file, or some of its tests; before it what it finds in
# its environment. test_floors.py holds these tables to the promises in the project's README.md and to the files that are
# here: a test_*.c, test_*.py or test_*.cpp that is new is in `make test` by itself, a new promise wants a row in QUICK.

# ------------------------------------------------------------------------------------------------------------ quick

# `make test-quick`, at each save: a row for each promise of README.md, in their order, of the tests that it names.
QUICK :=
# gradients are derivatives, and the usual mistakes are seen
QUICK += "TEST_QUICK=1 $(BUILD)/test_gradients" $(BUILD)/test_gradient_faults
# text comes out of models of any vocabulary
QUICK += $(BUILD)/test_sampler "test/test_generate.py -k 'ids_become or broken or refused_by_line'"
# no bit of any variant changes by recomputing or statistics
QUICK += $(BUILD)/test_variants
# every combination of flags trains or is refused by name
QUICK += $(BUILD)/test_variant_rules
# an independent model computes the same
QUICK += test/test_reference.py
# a step is AdamW's, or Muon's; statistics are what the layers did
QUICK += test/test_update.py $(BUILD)/test_muon $(BUILD)/test_telemetry
# every operation computes what kernels.h says
QUICK += "OPS_SAMPLE=1 $(BUILD)/test_ops test --implementation cpu/f32"
# bf16 on a CPU keeps every promise of fp32
QUICK += "test/test_bf16.py -k 'by_name or bit_for_bit and plain'"
# the same bits, after a resume too
QUICK += $(BUILD)/test_model "test/test_training.py -k 'same_bits or recomputing'"
# whatever bounds threads and memory, no number is another
QUICK += $(BUILD)/test_limits
# a CUDA kernel is right without a GPU
QUICK += $(BUILD)/test_emu
# nothing races
QUICK += $(BUILD)/test_race
# CUDA trains as the CPU does
QUICK += "TEST_QUICK=1 test/test_emulated_losses.py"
# steps in flight and captured graphs change no bit
QUICK += $(BUILD)/test_host_path "test/test_emulated_training.py -k captured"
# a resume that changes something says so
QUICK += $(BUILD)/test_changes $(BUILD)/test_fingerprint
# a run survives
QUICK += "test/test_faults.py -k 'short or on_the_disk_before'" "test/test_resume.py -k 'fp64 or interrupt_ends'" \
         "test/test_bad_checkpoints.py -k truncated"
# a comparison gives each variant its own best, and says how sure it is
QUICK += test/test_tuning.py
# what a run did is told, and passed on, as it was
QUICK += "test/test_summary.py -k 'what_came or best_before'" "test/test_exporters.py -k 'records or lines or grouped'"
# config.json says which model it is, both ways
QUICK += $(BUILD)/test_huggingface_config
# several ranks train as one, and one that dies ends all
QUICK += $(BUILD)/test_moments "test/test_ranks.py -k 'any_number or is_killed'" "test/test_ranks_cost.py -k 'plan_of_a_rank or a_plan'"
# they find each other, and no wait is for ever
QUICK += $(BUILD)/test_launcher "test/test_rendezvous.py -k 'launcher or never_starts'"
# bad flags, shards and weights are refused in one line
QUICK += "test/test_program.py -k 'flag or bad_shards or weights_that'" $(BUILD)/test_config $(BUILD)/test_data
# documents, mixtures, Megatron's files
QUICK += $(BUILD)/test_documents $(BUILD)/test_megatron $(BUILD)/test_mixture
# a tokenizer goes with its tokens; --eval scores as lm_eval does; recipes are runs
QUICK += "test/test_tokenizer_files.py -k 'byte_b or without_any'" "test/test_eval.py -k likelihoods" "test/test_recipes.py -k table"
# what has no effect is said; a wrong name leads to what was meant
QUICK += test/test_needs.py $(BUILD)/test_names
# and the plan of src/, and these tables
QUICK += test/test_rooms.py test/test_floors.py

# ------------------------------------------------------------------------------------------------------------- test

# `make test`, for each change: every test there is, in its short form.
#
# Each C test by itself; and again under ASan and UBSan, but what runs no code that another does not (test_gradients only
# runs test_variants' more often; test_host_path and the emulation's own test_emu have their sanitizers in test-all).
PROGRAMS  := $(TESTS) $(addprefix $(BUILD)/test_,emu host_path race)
SANITIZED := $(patsubst $(BUILD)/%,build/asan/%,$(filter-out %/test_gradients %/test_host_path %/test_emu %/test_race,$(PROGRAMS)))
# Alone: what uses every core by itself, or is there to use them, or compares times.
TEST_ALONE  := $(BUILD)/test_model test/test_emulated_losses.py test/test_gpu_check.py $(FUZZING)
# As many at once as there are cores, one thread each: what takes longest first.
LONG        := test/test_races.py $(BUILD)/test_ops build/asan/test_variants test/test_emulated_ranks.py test/test_ranks.py
# Samples of what is slow under sanitizers; whole in test-all.
SANITIZED_WHOLE := build/asan/test_ops build/asan/test_variant_rules build/asan/test_extremes
SANITIZED_PART  := $(foreach type,f32 bf16,"OPS_SAMPLE=1 build/asan/test_ops test --implementation cpu/$(type)") \
                   $(foreach test,variant_rules extremes,"VARIANTS_EVERY=7 build/asan/test_$(test)")
# Whether cpu/bf16 and cuda/bf16 round at the same places: whole in test-all, too.
TWINS_PART  := "OPS_SAMPLE=1 $(BUILD)/test_ops_emu twins"
# What a processor with AMX does not take, in cpu/bf16.
NO_AMX      := "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 OPS_SAMPLE=1 $(BUILD)/test_ops test --implementation cpu/bf16"
TEST_PAIRED := $(EMU_SUITES) $(TWINS_PART) $(NO_AMX) $(LONG) $(filter-out $(TEST_ALONE) $(LONG),$(SCRIPTED) $(PROGRAMS)) $(SANITIZED_PART) \
               $(filter-out $(SANITIZED_WHOLE) $(LONG),$(SANITIZED)) $(REPLAYS)
TEST        := $(TEST_PAIRED) $(TEST_ALONE)

# --------------------------------------------------------------------------------------------------------------- hf

# `make test-hf`: what only PyTorch and transformers can say; nothing else needs them, so they run where HF_PYTHON has them.
HF          := $(wildcard test/hf/test_*.py)

# -------------------------------------------------------------------------------------------------------------- all

# `make test-all`, before a release: all of that in its long forms (TEST_ALL=1), fuzzing three times as long; and the emulated
# suites in three other orders of blocks, and under the sanitizers.
OPS_EMU     := test_ops_emu test --implementation cuda
EVERY_ORDER := $(foreach seed,1 2 3,$(foreach type,f32 bf16,"EMU_SEED=$(seed) $(BUILD)/$(OPS_EMU)/$(type)"))
ALL_ALONE   := $(filter-out $(FUZZING),$(TEST_ALONE)) $(FUZZING_LONG)
# A program for each barrier: together they take longer than run.py lets a run.
TEST_RACES  := test/test_races.py
RACES_LONG  := "$(TEST_RACES) -k 'not taken_out'" "$(TEST_RACES) -k 'taken_out and mma'" "$(TEST_RACES) -k 'taken_out and attention and not mma'" \
               "$(TEST_RACES) -k 'taken_out and not attention'"
ALL_PAIRED  := $(RACES_LONG) $(filter-out $(TEST_RACES),$(TEST_PAIRED)) "$(BUILD)/test_ops_emu twins" $(SANITIZED_WHOLE) $(EVERY_ORDER) $(foreach type,f32 bf16,"OPS_SAMPLE=1 build/asan/$(OPS_EMU)/$(type)") \
               $(addprefix build/asan/test_,host_path emu)
ALL         := $(ALL_PAIRED) $(ALL_ALONE)
