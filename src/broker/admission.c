/* The rate limit and the held destinations of admission.h. Everything is found by keyed hashes of 64 bits, so that what a member makes us remember is small whatever it
 * sends. Knows no SQL and no sockets; the store's thread alone calls it. */
#include "broker/admission.h"

#include <sys/queue.h>

#include "broker/store/table.h"
#include "util/memory.h"

enum {
    WINDOW_MS = 60000, /* of "charged at most once for each id and window" */
    /* A held destination is let go when the refused id does not come back: its sender may have given it up. A daemon tries again within 37.5 s. */
    HOLD_MS = 120000,
    /* Held destinations of one connection; past it everything of that connection is held until the half is decided. */
    HELD_MAXIMUM = 1024,
    /* Ids remembered as charged, of one member and window. */
    CHARGED_MAXIMUM = 65536,
    /* Members whose buckets are kept; past it those that are full again are dropped. */
    BUCKETS_SWEPT_ABOVE = 16384
};

/* One token is WINDOW_MS units; a millisecond brings rate_per_minute units. */
enum { TOKEN = WINDOW_MS };

struct lane { /* a destination and priority of a connection, held until `holder` is decided */
    struct table_node node, by_holder;
    LIST_ENTRY(lane) of_connection;
    uint64_t connection, holder;
    int64_t refused_ms, number; /* number: of the holder's first refusal */
};

struct holding { /* a connection with held lanes */
    struct table_node node;
    LIST_HEAD(, lane) lanes;
    uint64_t connection;
    size_t count;
    bool overflowing;
};

struct charge { /* an id that was charged in this window, and is not committed */
    struct table_node node;
    LIST_ENTRY(charge) of_bucket;
};

struct bucket {
    struct table_node node;
    LIST_HEAD(, charge) charges;
    struct table charged;
    int64_t member, units, filled_ms, window;
};

struct accepted { /* in the transaction that is under way */
    uint64_t connection, lane, id;
    int64_t member, number;
};

struct admission {
    struct admission_options options;
    struct table lanes, lanes_by_holder, holdings, buckets;
    struct accepted *accepted;
    size_t accepted_count, accepted_capacity;
};

static bool any(const struct table_node *node, const void *key)
{
    (void)node;
    (void)key;
    return true; /* the hash is the key */
}

/* ---- held destinations ---------------------------------------------------------------------------------------------- */

/* Of the id and whose it is. */
static uint64_t id_hash(const struct store_accept *request)
{
    uint64_t parts[2] = { (uint64_t)request->sender, table_hash_bytes(request->client_message_id, strlen(request->client_message_id)) };
    return table_hash_bytes(parts, sizeof parts);
}

static uint64_t lane_hash(const struct store_accept *request)
{
    uint64_t parts[3] = { request->connection, (uint64_t)request->priority,
                          table_hash_bytes(request->destination_ref, strlen(request->destination_ref)) };
    return table_hash_bytes(parts, sizeof parts);
}

static struct lane *find_lane(const struct admission *admission, uint64_t hash)
{
    return (struct lane *)(void *)table_find(&admission->lanes, hash, any, NULL);
}

static struct holding *find_holding(const struct admission *admission, uint64_t connection)
{
    return (struct holding *)(void *)table_find(&admission->holdings, table_hash_number(connection), any, NULL);
}

static struct lane *find_lane_held_by(const struct admission *admission, uint64_t holder)
{
    struct table_node *node = table_find(&admission->lanes_by_holder, holder, any, NULL);
    return node == NULL ? NULL : CONTAINER_OF(node, struct lane, by_holder);
}

static void free_lane(struct admission *admission, struct lane *lane)
{
    LIST_REMOVE(lane, of_connection);
    table_remove(&admission->lanes, &lane->node);
    table_remove(&admission->lanes_by_holder, &lane->by_holder);
    free(lane);
}

static void free_holding(struct admission *admission, struct holding *holding)
{
    while (!LIST_EMPTY(&holding->lanes))
        free_lane(admission, LIST_FIRST(&holding->lanes));
    table_remove(&admission->holdings, &holding->node);
    free(holding);
}

static void hold(struct admission *admission, uint64_t connection, uint64_t hash, uint64_t id, int64_t number)
{
    struct lane *lane = find_lane(admission, hash);
    if (lane != NULL) {
        if (lane->holder != id && lane->number < number)
            return;
        lane->refused_ms = admission->options.now_ms();
        table_remove(&admission->lanes_by_holder, &lane->by_holder);
        table_insert(&admission->lanes_by_holder, &lane->by_holder, id);
        lane->holder = id;
        if (number < lane->number)
            lane->number = number;
        return;
    }
    struct holding *holding = find_holding(admission, connection);
    if (holding == NULL) {
        holding = memory_zalloc(sizeof(*holding));
        LIST_INIT(&holding->lanes);
        holding->connection = connection;
        table_insert(&admission->holdings, &holding->node, table_hash_number(connection));
    }
    if (holding->count >= HELD_MAXIMUM) {
        holding->overflowing = true;
        return;
    }
    lane = memory_zalloc(sizeof(*lane));
    lane->connection = connection;
    lane->holder = id;
    lane->number = number;
    lane->refused_ms = admission->options.now_ms();
    LIST_INSERT_HEAD(&holding->lanes, lane, of_connection);
    table_insert(&admission->lanes, &lane->node, hash);
    table_insert(&admission->lanes_by_holder, &lane->by_holder, id);
    holding->count++;
}

static void release_lane(struct admission *admission, struct lane *lane)
{
    struct holding *holding = find_holding(admission, lane->connection);
    free_lane(admission, lane);
    holding->count--;
    if (holding->count <= HELD_MAXIMUM / 2)
        holding->overflowing = false;
    if (holding->count == 0)
        free_holding(admission, holding);
}

static bool is_held(struct admission *admission, const struct store_accept *request)
{
    struct lane *lane = find_lane(admission, lane_hash(request));
    if (lane != NULL && lane->holder != id_hash(request) && admission->options.now_ms() - lane->refused_ms > HOLD_MS) {
        release_lane(admission, lane);
        lane = NULL;
    }
    if (lane != NULL)
        return lane->holder != id_hash(request);
    const struct holding *holding = find_holding(admission, request->connection);
    return holding != NULL && holding->overflowing;
}

/* ---- the rate ------------------------------------------------------------------------------------------------------------ */

static void free_charges(struct bucket *bucket)
{
    while (!LIST_EMPTY(&bucket->charges)) {
        struct charge *charge = LIST_FIRST(&bucket->charges);
        LIST_REMOVE(charge, of_bucket);
        free(charge);
    }
    table_release(&bucket->charged);
}

static void free_bucket(struct admission *admission, struct bucket *bucket)
{
    table_remove(&admission->buckets, &bucket->node);
    free_charges(bucket);
    free(bucket);
}

static void refill(const struct admission *admission, struct bucket *bucket, int64_t now_ms)
{
    int64_t full = admission->options.burst * TOKEN;
    int64_t elapsed = now_ms - bucket->filled_ms;
    /* A bucket is never larger than its burst, so what would fill it in any case need not be multiplied. */
    if (elapsed >= full / admission->options.rate_per_minute + 1)
        bucket->units = full;
    else if (elapsed > 0)
        bucket->units += elapsed * admission->options.rate_per_minute;
    if (bucket->units > full)
        bucket->units = full;
    bucket->filled_ms = now_ms;
    if (bucket->window != now_ms / WINDOW_MS) {
        free_charges(bucket);
        bucket->window = now_ms / WINDOW_MS;
    }
}

static void drop_if_full(void *argument, struct table_node *node)
{
    struct admission *admission = argument;
    struct bucket *bucket = (struct bucket *)(void *)node;
    refill(admission, bucket, admission->options.now_ms());
    if (bucket->units == admission->options.burst * TOKEN && LIST_EMPTY(&bucket->charges))
        free_bucket(admission, bucket);
}

static struct bucket *find_bucket(struct admission *admission, int64_t member)
{
    struct bucket *bucket = (struct bucket *)(void *)table_find(&admission->buckets, table_hash_number((uint64_t)member), any, NULL);
    if (bucket != NULL)
        return bucket;
    if (admission->buckets.count >= BUCKETS_SWEPT_ABOVE)
        table_each(&admission->buckets, drop_if_full, admission);
    bucket = memory_zalloc(sizeof(*bucket));
    LIST_INIT(&bucket->charges);
    bucket->member = member;
    bucket->units = admission->options.burst * TOKEN;
    bucket->filled_ms = admission->options.now_ms();
    bucket->window = bucket->filled_ms / WINDOW_MS;
    table_insert(&admission->buckets, &bucket->node, table_hash_number((uint64_t)member));
    return bucket;
}

static bool has_limit(const struct admission *admission)
{
    return admission->options.rate_per_minute > 0 && admission->options.burst > 0;
}

/* False: no token left. */
static bool charge(struct admission *admission, const struct store_accept *request, int64_t *ret_retry_after_ms)
{
    if (!has_limit(admission))
        return true;
    struct bucket *bucket = find_bucket(admission, request->sender);
    refill(admission, bucket, admission->options.now_ms());
    uint64_t id = id_hash(request);
    if (table_find(&bucket->charged, id, any, NULL) != NULL)
        return true;
    if (bucket->units < TOKEN) {
        int64_t rate = admission->options.rate_per_minute;
        *ret_retry_after_ms = (TOKEN - bucket->units + rate - 1) / rate;
        return false;
    }
    bucket->units -= TOKEN;
    if (bucket->charged.count < CHARGED_MAXIMUM) {
        struct charge *charged = memory_zalloc(sizeof(*charged));
        LIST_INSERT_HEAD(&bucket->charges, charged, of_bucket);
        table_insert(&bucket->charged, &charged->node, id);
    }
    return true;
}

/* ---- what the store calls ---------------------------------------------------------------------------------------------- */

static int admit(void *argument, const struct store_accept *request, int64_t *ret_retry_after_ms)
{
    struct admission *admission = argument;
    if (is_held(admission, request))
        return 503;
    return charge(admission, request, ret_retry_after_ms) ? 0 : 429;
}

static void decided(void *argument, const struct store_accept *request, bool refused_in_passing)
{
    struct admission *admission = argument;
    uint64_t hash = lane_hash(request), id = id_hash(request);
    if (refused_in_passing) {
        hold(admission, request->connection, hash, id, request->number);
        return;
    }
    /* On whatever way and connection it was decided, it holds nothing any more. */
    for (struct lane *lane; (lane = find_lane_held_by(admission, id)) != NULL;)
        release_lane(admission, lane);
    if (request->outcome != STORE_ACCEPTED)
        return;
    if (admission->accepted_count == admission->accepted_capacity) {
        admission->accepted_capacity = admission->accepted_capacity == 0 ? 64 : admission->accepted_capacity * 2;
        admission->accepted = memory_realloc(admission->accepted, admission->accepted_capacity * sizeof(*admission->accepted));
    }
    admission->accepted[admission->accepted_count++] = (struct accepted){
        request->connection, hash, id, request->sender, request->number,
    };
}

/* An id that is committed needs no memory of its charge: from now on it is a duplicate, and those are free. */
static void committed(void *argument)
{
    struct admission *admission = argument;
    for (size_t i = 0; i < admission->accepted_count && has_limit(admission); i++) {
        struct bucket *bucket = find_bucket(admission, admission->accepted[i].member);
        struct charge *charged = (struct charge *)(void *)table_find(&bucket->charged, admission->accepted[i].id, any, NULL);
        if (charged != NULL) {
            LIST_REMOVE(charged, of_bucket);
            table_remove(&bucket->charged, &charged->node);
            free(charged);
        }
    }
    admission->accepted_count = 0;
}

/* What was accepted is not: the first of each destination holds those after it until it is decided again. */
static void rolled_back(void *argument)
{
    struct admission *admission = argument;
    for (size_t i = 0; i < admission->accepted_count; i++)
        hold(admission, admission->accepted[i].connection, admission->accepted[i].lane, admission->accepted[i].id,
             admission->accepted[i].number);
    admission->accepted_count = 0;
}

static void forget(void *argument, uint64_t connection)
{
    struct admission *admission = argument;
    struct holding *holding = find_holding(admission, connection);
    if (holding != NULL)
        free_holding(admission, holding);
}

struct store_admission admission_for_store(struct admission *admission)
{
    return (struct store_admission){
        .argument = admission,
        .admit = admit,
        .decided = decided,
        .committed = committed,
        .rolled_back = rolled_back,
        .forget = forget,
    };
}

struct admission *admission_new(const struct admission_options *options)
{
    struct admission *admission = memory_zalloc(sizeof(*admission));
    admission->options = *options;
    return admission;
}

static void visit_bucket(void *argument, struct table_node *node)
{
    free_bucket(argument, (struct bucket *)(void *)node);
}

static void visit_holding(void *argument, struct table_node *node)
{
    free_holding(argument, (struct holding *)(void *)node);
}

void admission_free(struct admission *admission)
{
    if (admission == NULL)
        return;
    table_each(&admission->buckets, visit_bucket, admission);
    table_each(&admission->holdings, visit_holding, admission);
    table_release(&admission->buckets);
    table_release(&admission->holdings);
    table_release(&admission->lanes);
    table_release(&admission->lanes_by_holder);
    free(admission->accepted);
    free(admission);
}
