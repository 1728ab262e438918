# Fuzzing, included by the Makefile (README.md): each parser under libFuzzer, and in `make test` what it once found, with
# gcc alone.

FUZZ         := build/fuzz
FUZZ_CLANG   ?= clang
FUZZ_SECONDS ?= 30
FUZZ_CJSON   ?=# a cJSON.c to instrument as well; otherwise the library as it is installed
FUZZ_CHECKS  := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
FUZZ_FLAGS   := -std=gnu11 -g -O1 $(WARNINGS) $(FUZZ_CHECKS)
FUZZ_SHARED  := $(filter-out test/fuzz/fuzz_% test/fuzz/replay.c,$(wildcard test/fuzz/*.c))
FUZZ_HOST    := $(patsubst src/%.c,$(FUZZ)/src/%.o,$(wildcard src/*/*.c))
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

REPLAY       := $(patsubst %,build/asan/replay_%,$(FUZZ_NAMES))
# A look for each change; as long as `make fuzz` in `make test-all`.
FUZZING      := "$(PYTHON) test/fuzz/fuzz.py --seconds 5 $(FUZZ_NAMES)"
FUZZING_LONG := "$(PYTHON) test/fuzz/fuzz.py --seconds $(FUZZ_SECONDS) $(FUZZ_NAMES)"

.PHONY: fuzz fuzz-build
