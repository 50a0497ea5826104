/* Who this host is, and whether it is the one that daemon/host_fingerprint.json remembers (50-identity, Host fingerprint): copied homes, restored backups and
 * cloned images put one key on two hosts. No defence against somebody who copies or edits that file too. Blocking; start-up and commands. Logs nothing. */
#ifndef IDENTITY_HOST_H
#define IDENTITY_HOST_H

#include "config/config.h"
#include "crypto/crypto.h"

enum { HOST_ID_SIZE = 129, HOST_MAC_SIZE = 18, HOST_SHORT_SIZE = 64 };

/* ---- the host as it is now ------------------------------------------------------------------------------------------ */

struct host_facts {
    char id[HOST_ID_SIZE];          /* host_id; "" none is readable */
    char mac[HOST_MAC_SIZE];        /* stable_mac as it would be chosen today, "aa:bb:…" in lower case; "" none */
    char (*present)[HOST_MAC_SIZE]; /* heap: every hardware address of the host, of whatever kind */
    size_t present_count;
    bool denied; /* something is there and may not be read: what is missing above says nothing */
};
/* `root` stands before /etc/machine-id, /var/lib/dbus/machine-id and /sys/class/net; NULL: $CLAUDEMESH_HOST_ROOT, which is for tests, else "". What is not
 * there is none; what cannot be read only now (EIO, no descriptors left) is an error: a host must not look like another one for want of a descriptor. */
int host_facts_read(const char *root, struct host_facts *ret_facts, struct error *error) MUST_CHECK;
void host_facts_release(struct host_facts *facts);

/* ---- the file --------------------------------------------------------------------------------------------------------- */

struct host_record {
    char id[HOST_ID_SIZE];             /* "" none; "random-…" where nothing of the host could be read */
    char mac[HOST_MAC_SIZE];           /* "" none */
    char fingerprint[SHA256_HEX_SIZE]; /* hex sha256("v2" 00 id 00 mac) */
};
bool host_record_is_random(const struct host_record *record);
/* Of what is known; without id and address a new random id. */
void host_record_make(const struct host_facts *facts, struct host_record *ret_record);
/* Bytes of the file. ERROR_CORRUPT: malformed (the fingerprint must be that of its fields); ERROR_NEWER: of a newer schema. */
int host_record_parse(const char *bytes, size_t length, struct host_record *ret_record, struct error *error) MUST_CHECK;
/* ERROR_NOT_FOUND, ERROR_CORRUPT, ERROR_NEWER; else it could not be read this time. */
int host_record_read(const char *path, struct host_record *ret_record, struct error *error) MUST_CHECK;
/* Atomically, 0600. */
int host_record_write(const char *path, const struct host_record *record, struct error *error) MUST_CHECK;

/* ---- the comparison ----------------------------------------------------------------------------------------------------- */

enum host_verdict {
    HOST_FIRST_START,  /* no file: record it */
    HOST_MATCH,        /* the same host */
    HOST_MAC_GONE,     /* the same host_id, the recorded address is gone: warn, record anew */
    HOST_MISMATCH,     /* another host */
    HOST_UNDETECTABLE, /* neither id nor address is readable, nor was: nothing can be told here */
    HOST_NOW_READABLE, /* nothing was readable when it was recorded, now something is: record it */
    HOST_VERDICTS
};
/* Pure. `stored` NULL: there is no file. */
enum host_verdict host_compare(const struct host_record *stored, const struct host_facts *facts);

struct host_check {
    enum host_verdict verdict;
    struct host_record stored;  /* zeroed on HOST_FIRST_START */
    struct host_record current; /* what would be recorded now; on a match the stored one */
};
/* Reads the file and the host; writes nothing. ERROR_CORRUPT and ERROR_NEWER refuse the start; the message names the way out. */
int host_check(const struct config_paths *paths, struct host_check *ret_check, struct error *error) MUST_CHECK;
/* Records the host as it is now, whatever stood there: for `accept-host`, `remint`, `restore`, `--accept-cloned-identity`. A file that cannot be understood is
 * kept beside it, as .replaced-<time>. A crash leaves the old or the new one. ret_check (may be NULL): what was there, and what is. */
int host_accept(const struct config_paths *paths, struct host_check *ret_check, struct error *error) MUST_CHECK;

/* "id 3f9a0c12…, address 3c:22:fb:01:02:03": what tells two hosts apart, for a person. */
void host_record_describe(const struct host_record *record, char ret_text[static HOST_SHORT_SIZE]);
/* hello's hostFingerprint (45-trust): hex sha256("claudemesh-host-v1" 00 mesh 00 fingerprint). */
void host_hello_fingerprint(const char *mesh_id, const char *fingerprint, char ret_hex[static SHA256_HEX_SIZE]);

#endif
