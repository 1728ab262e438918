/*
 * eval_items.h: --eval FILE[,FILE…]: which answers does a model give, and how many are right?
 *
 *     acc        choices: the likeliest is the right one; last words: each token is the likeliest after those before it
 *     acc_norm   the likeliest a character of its text; lm_eval's (files may leave the lengths out)
 *     acc_bytes  the likeliest a byte
 *     perplexity of last words: exp(−mean log-likelihood)
 *
 * Standard errors are lm_eval's: sample deviation / √n; of perplexity to first order, where lm_eval draws samples. Of
 * choices alike the first counts.
 */
#ifndef EVAL_ITEMS_H
#define EVAL_ITEMS_H

#include "log.h"
#include "../checkpoint/token_bytes.h"
#include "../model/model.h"

typedef struct Evaluation Evaluation;

/* Reads all rows of config->eval's files, and finds a place for config->eval_out. Exit 2 for the first row that cannot
 * be asked, with file and row: before any weights are loaded. Text can be asked where the table says that tokens are
 * bytes. Config, table and tokenizer, the sha256 of the model's tokenizer.json or "", must outlive it: ids of another one
 * are refused, unless --allow-change. */
Evaluation *evaluation_open(const Config *config, const TokenBytes *table, const char *tokenizer);

/* Asks the model, says on stderr how far it is where that takes seconds, prints a line for each file, and puts it into
 * the log. Exit 1 where a signal asks for the end, 3 where a likelihood is no finite number. Closes the evaluation. */
void evaluation_run(Evaluation *evaluation, Model *model, Log *log, int64_t step);

#endif
