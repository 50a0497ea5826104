/* Invite links, certificates, join requests (50-identity "Invites", 45-trust "Members"). Pure. */
#ifndef PROTO_INVITE_H
#define PROTO_INVITE_H

#include <jansson.h>

#include "crypto/keys.h"
#include "util/text.h"

struct invite {
    int version; /* 3; 1 for ic://join/ links (read only, no seed, no certificate) */
    char *mesh_id, *mesh_slug, *mesh_name, *broker_url, *invite_id, *role;
    int64_t expires_at_s; /* Unix seconds */
    int64_t max_uses;
    char *owner_pubkey;   /* hex */
    char *signer_pubkey;  /* hex; NULL when the owner signed */
    json_t *signer_grant; /* the admin's grant statement with by and sig; NULL when the owner signed */
    uint8_t root_key[32];
    bool has_root_key;
    char root_key_sha256[SHA256_HEX_SIZE];
    uint8_t invite_seed[SEED_BYTES];
    bool has_invite_seed;
    char invite_pubkey[KEY_HEX_SIZE]; /* of the seed, or as given in a certificate */
    char signature[SIGNATURE_HEX_SIZE];
};
void invite_release(struct invite *invite); /* wipes the secrets */

/* "k" and the first 40 hex digits of sha256("claudemesh-invite-key-v1" 00 invite_pubkey hex). */
enum { INVITE_ID_SIZE = 42 };
void invite_id_of(const char *invite_pubkey_hex, char ret_invite_id[INVITE_ID_SIZE]);
/* The signed text: v=3|mesh_id|… */
int invite_text(const struct invite *invite, struct buffer *ret_text, struct error *error) MUST_CHECK;
/* What follows from the secrets that are there (root_key_sha256; invite_pubkey and invite_id) is filled in first. ERROR_DENIED when `signer` is not
 * the key that the invite names, or an admin signs for an admin. */
int invite_sign(struct invite *invite, const struct keypair *signer, struct error *error) MUST_CHECK;
/* Fields well-formed, invite_id commits to the key, owner's signature, or admin's with a valid grant (never for role admin).
 * Says nothing about expiry. ERROR_INVALID malformed, ERROR_DENIED bad signature. */
int invite_verify(const struct invite *invite, struct error *error) MUST_CHECK;
/* claudemesh://join/… (and the older ic://join/…). Strict; the link is a secret: never in an error message. Of an older link the fields that it lacks
 * are NULL or 0 (mesh_name, invite_id, max_uses), and invite_verify refuses it: nothing in it can be checked. */
int invite_parse_link(const char *link, struct invite *ret_invite, struct error *error) MUST_CHECK;
/* Version 3 only; has_root_key and has_invite_seed must hold. A secret: wipe it after use. */
char *invite_format_link(const struct invite *invite) MUST_CHECK;
/* The invite as it goes to the broker and into a certificate: without root_key and invite_seed, with root_key_sha256. New reference. */
json_t *invite_public_json(const struct invite *invite) MUST_CHECK;
/* The other way. Unknown fields are ignored, but an object that carries root_key or invite_seed is refused. invite_pubkey is left empty. */
int invite_parse_public(const json_t *object, struct invite *ret_invite, struct error *error) MUST_CHECK;

/* A certificate: {"invite":{the invite's fields without root_key and invite_seed, with "root_key_sha256"},"invite_pubkey",
 * "join":{mesh,invite_id,role,pubkey,name,at},"invite_sig","self_sig"}. New reference. */
int certificate_make(const struct invite *invite, const struct keypair *member, const char *name, int64_t at_ms, json_t **ret_certificate,
                     struct error *error) MUST_CHECK;
struct certificate {
    struct invite invite; /* has_root_key and has_invite_seed false */
    char pubkey[KEY_HEX_SIZE];
    char *name, *role;
    int64_t at_ms;
};
void certificate_release(struct certificate *certificate);
/* The shape only, no signature looked at: for what was verified before it was stored. */
int certificate_parse(const json_t *certificate, struct certificate *ret_certificate, struct error *error) MUST_CHECK;
/* Parses and verifies everything that needs no clock and no other certificate: the invite's signature up to `owner_pubkey` (the pin), the
 * mesh id, the join statement's two signatures, role equal to the invite's, at ≤ expires_at. ERROR_INVALID malformed, ERROR_DENIED everything else. */
int certificate_verify(const json_t *certificate, const char *mesh_id, const char *owner_pubkey, struct certificate *ret_certificate,
                       struct error *error) MUST_CHECK;

#endif
