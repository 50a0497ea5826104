/* Owns the settings as rows: the daemon's (80-operations, config.toml) and the broker's (the figures of 70-broker). Help,
 * `config show` and the documentation come from here. A section that ends in ".*" stands for one table for each name. */
#include "config/config.h"

enum { THOUSAND = 1000, MILLION = 1000 * THOUSAND };

#define KIB (INT64_C(1) << 10)
#define MIB (INT64_C(1) << 20)
#define TIB (INT64_C(1) << 40)

/* Rows read: section, key, default as in the file; then what is special about them. */
#define TEXT_ROW(section, key, standard, live, help)                 \
    {                                                                \
        section, key, SETTING_TEXT, standard, 0, 0, NULL, live, help \
    }
#define BOOL_ROW(section, key, standard, live, help)                 \
    {                                                                \
        section, key, SETTING_BOOL, standard, 0, 0, NULL, live, help \
    }
#define LIST_ROW(section, key, standard, live, help)                 \
    {                                                                \
        section, key, SETTING_LIST, standard, 0, 0, NULL, live, help \
    }
#define CHOICE_ROW(section, key, standard, choices, live, help)           \
    {                                                                     \
        section, key, SETTING_CHOICE, standard, 0, 0, choices, live, help \
    }
#define INTEGER_ROW(section, key, standard, minimum, maximum, live, help)           \
    {                                                                               \
        section, key, SETTING_INTEGER, standard, minimum, maximum, NULL, live, help \
    }
#define SIZE_ROW(section, key, standard, minimum, maximum, live, help)           \
    {                                                                            \
        section, key, SETTING_SIZE, standard, minimum, maximum, NULL, live, help \
    }

const struct setting_definition SETTINGS[] = {
    TEXT_ROW("daemon", "display_name", "\"\"", false, "the name others see; empty: the one of config.json"),
    CHOICE_ROW("daemon", "log_level", "\"info\"", "debug|info|warn|error", true, "the least level that is logged"),
    BOOL_ROW("daemon", "confine", "true", false, "give up, once started, what it does not need: other files, other programs"),
    LIST_ROW("daemon", "meshes", "[]", true, "slugs of the meshes to serve; empty: all joined ones"),

    BOOL_ROW("ipc", "tcp_enabled", "true", false, "serve the local API on TCP (127.0.0.1) too"),
    INTEGER_ROW("ipc", "tcp_port", "47823", 0, 65535, false, "the TCP port; 0: any free one"),
    BOOL_ROW("ipc", "public_health_check", "false", true, "answer GET /v1/health on TCP without a token"),
    LIST_ROW("ipc", "allowed_origins", "[]", true, "web origins that may call the local API"),
    INTEGER_ROW("ipc", "max_in_flight", "64", 1, 10 * THOUSAND, true, "requests at once"),
    INTEGER_ROW("ipc", "max_streams", "32", 1, 10 * THOUSAND, true, "event streams at once"),
    INTEGER_ROW("ipc", "rate_limit_rps", "100", 0, MILLION, true, "TCP requests a second, sustained; 0: no limit"),
    INTEGER_ROW("ipc", "rate_limit_burst", "1000", 0, MILLION, true, "TCP requests in a burst; 0: no limit"),

    CHOICE_ROW("outbox", "fsync", "\"strict\"", "strict|batched", false,
               "strict: an accepted send survives the loss of power; batched: a crash of the process only"),
    INTEGER_ROW("outbox", "max_rows", "5000000", 1, 1000 * MILLION, true,
                "rows with work left, and dead ones; done and aborted do not count"),
    SIZE_ROW("outbox", "max_bytes", "\"5GB\"", KIB, 100 * TIB, true, "their bytes"),
    INTEGER_ROW("outbox", "max_age_hours", "168", 1, 720, false,
                "a row that was not accepted for so long dies, where the broker's retention says nothing else"),
    INTEGER_ROW("outbox", "max_age_hours_override", "0", 0, 100 * THOUSAND, false,
                "replaces what follows from the broker's retention; 0: no override"),
    INTEGER_ROW("outbox", "done_retention_days", "30", 1, 36500, true, "the payload of a done row is kept so long"),

    INTEGER_ROW("inbox", "retention_days", "30", 1, 36500, true, "messages are kept so long"),
    SIZE_ROW("inbox", "max_bytes", "\"5GB\"", KIB, 100 * TIB, true,
             "at this size the oldest messages marked seen go before their time; no other does"),
    BOOL_ROW("inbox", "fts", "true", false, "keep a full-text index"),

    INTEGER_ROW("drain", "window", "256", 1, 4096, true, "sends that may await the broker's answer at once"),
    INTEGER_ROW("drain", "backoff_initial_ms", "500", 1, 3600 * THOUSAND, true, "the first pause after a failure"),
    INTEGER_ROW("drain", "backoff_max_ms", "30000", 1, 3600 * THOUSAND, true, "the longest pause"),
    INTEGER_ROW("drain", "jitter_pct", "25", 0, 100, true, "how much a pause varies, in per cent"),

    TEXT_ROW("broker", "ca_file", "\"\"", false, "certificates to trust instead of the system's"),
    BOOL_ROW("broker", "allow_insecure", "false", false, "allow ws:// to other hosts than this one"),
    BOOL_ROW("broker", "allow_plaintext", "false", false, "accept broadcasts that are not encrypted, on every mesh"),

    LIST_ROW("features", "require", "[\"client_message_id_dedupe\", \"concurrent_connection_policy\"]", false,
             "a broker without these features is refused"),
    CHOICE_ROW("clone", "policy", "\"refuse\"", "refuse|warn|allow", false, "what to do on another host than last time"),
    INTEGER_ROW("crypto", "key_grace_period_days", "7", 1, 30, false, "a rotated key still opens messages so long"),
    BOOL_ROW("hooks", "enabled", "true", true, "run hooks"),
    INTEGER_ROW("hooks", "concurrency", "8", 1, 64, true, "hooks at once"),
    SIZE_ROW("log", "max_size", "\"100MB\"", KIB, TIB, true, "daemon.log is rotated past this"),
    INTEGER_ROW("log", "max_age_days", "14", 1, 3650, true, "logs are kept so long"),
    BOOL_ROW("privacy", "share_host", "false", false, "tell the broker this host's name and directory"),

    BOOL_ROW("mesh.*", "allow_plaintext", "false", false, "accept broadcasts that are not encrypted, on this mesh"),
};
const size_t SETTING_COUNT = ARRAY_LENGTH(SETTINGS);

const struct setting_definition BROKER_SETTINGS[] = {
    BOOL_ROW("broker", "confine", "true", false, "give up, once started, what it does not need: other files, other programs"),
    LIST_ROW("broker", "public_urls", "[]", false, "the URLs that clients know this broker by, ws:// or wss://"),
    INTEGER_ROW("broker", "dedupe_retention_days", "365", 1, 36500, false, "a client_message_id is remembered so long"),
    CHOICE_ROW("broker", "dedupe_mode", "\"retention_scoped\"", "retention_scoped|permanent", false, "permanent: ids are never forgotten"),
    INTEGER_ROW("broker", "message_retention_days", "365", 1, 36500, true, "messages are kept so long"),
    INTEGER_ROW("broker", "key_grace_period_days", "7", 1, 30, false, "sends to a key that was rotated out reach its member so long"),
    INTEGER_ROW("broker", "inline_bytes", "65536", 1, 100 * KIB, false,
                "the largest body of a message; more would not fit a frame of 1 MiB once it is sealed"),
    SIZE_ROW("broker", "blob_bytes", "\"512MB\"", 0, TIB, false, "the largest file"),
    INTEGER_ROW("broker", "rate_limit_per_minute", "1200000", 0, 1000 * MILLION, false, "sends a minute of one member; 0: no limit"),
    INTEGER_ROW("broker", "rate_limit_burst", "100000", 0, 1000 * MILLION, false, "sends in a burst of one member; 0: no limit"),
    INTEGER_ROW("broker", "max_connections", "10000", 1, MILLION, true, "connections"),
    INTEGER_ROW("broker", "max_connections_per_mesh", "1000", 1, MILLION, true, "connections of one mesh"),
    INTEGER_ROW("broker", "max_new_connections_per_second", "1000", 0, MILLION, true,
                "new connections a second from one address; 0: no limit"),
    INTEGER_ROW("broker", "hello_timeout_s", "5", 1, 300, true, "a connection without hello is closed after this"),
    INTEGER_ROW("broker", "max_waiting_per_recipient", "100000", 1, 100 * MILLION, false, "deliveries that wait for one recipient"),
    INTEGER_ROW("broker", "presence_grace_s", "90", 0, 86400, true, "a lost connection counts as present so long"),
    INTEGER_ROW("broker", "check_interval_s", "86400", 1, 31 * 86400, false, "the store's consistency is checked so often"),
    INTEGER_ROW("broker", "lease_s", "30", 1, 3600, true, "a push that is not acknowledged is due again after this"),
    INTEGER_ROW("broker", "window", "256", 1, 4096, false, "unacknowledged pushes of one connection"),
    LIST_ROW("broker", "trusted_proxies", "[]", true, "addresses whose X-Forwarded-For is believed"),
    LIST_ROW("broker", "allowed_origins", "[]", true, "web origins that may call the broker"),
    CHOICE_ROW("broker", "connection_policy", "\"prefer_newest\"", "prefer_newest|prefer_oldest|allow_concurrent", true,
               "a member's second connection"),
    TEXT_ROW("broker", "offer_override", "\"\"", false, "JSON that replaces parts of the offered features"),

    CHOICE_ROW("log", "level", "\"info\"", "debug|info|warn|error", true, "the least level that is logged"),
    CHOICE_ROW("store", "fsync", "\"strict\"", "strict|batched", false,
               "strict: what was accepted survives the loss of power; batched: a crash of the process only"),
};
const size_t BROKER_SETTING_COUNT = ARRAY_LENGTH(BROKER_SETTINGS);
