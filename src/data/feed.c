/* feed.c: see feed.h. */
#include "feed.h"

void feed_create(Feed *feed, Model *model) {
    const Kernels *k = model->k;
    size_t bytes = (size_t)model->N * sizeof(uint32_t);
    const bool documents = model->document_start != NULL;
    *feed = (Feed){.model = model};
    for (int i = 0; i < FEED_SLOTS; i++) {
        struct FeedSlot *slot = &feed->slot[i];
        *slot = (struct FeedSlot){.tokens = k->host_alloc(bytes),
                                  .targets = k->host_alloc(bytes),
                                  .document_start = documents ? k->host_alloc(bytes) : NULL,
                                  .position = documents ? k->host_alloc(bytes) : NULL,
                                  .copied = k->event_create(EVENT_INTERNAL)};
        require(slot->tokens && slot->targets && (!documents || (slot->document_start && slot->position)),
                "out of memory: %zu bytes of host memory for batches; lower --batch-size",
                (documents ? 4u : 2u) * FEED_SLOTS * bytes);
    }
}

void feed_destroy(Feed *feed) {
    if (!feed->model) return;
    const Kernels *k = feed->model->k;
    k->queue_wait(feed->model->queue);
    for (int i = 0; i < FEED_SLOTS; i++) {
        k->host_release(feed->slot[i].tokens);
        k->host_release(feed->slot[i].targets);
        if (feed->slot[i].document_start) k->host_release(feed->slot[i].document_start);
        if (feed->slot[i].position) k->host_release(feed->slot[i].position);
        k->event_destroy(feed->slot[i].copied);
    }
}

struct FeedSlot *feed_open(Feed *feed) {
    struct FeedSlot *slot = &feed->slot[feed->turn];
    feed->model->k->event_host_wait(slot->copied);
    return slot;
}

void feed_send(Feed *feed) {
    struct FeedSlot *slot = &feed->slot[feed->turn];
    model_feed(feed->model, slot->tokens, slot->targets);
    if (slot->document_start) model_feed_documents(feed->model, slot->document_start, slot->position);
    feed->model->k->event_record(feed->model->queue, slot->copied);
    feed->turn = (feed->turn + 1) % FEED_SLOTS;
}
