/* A store in a directory of its own, with a mesh and members, for the store's tests; every request is waited for. */
#ifndef TESTS_BROKER_STORE_FIXTURE_H
#define TESTS_BROKER_STORE_FIXTURE_H

#include "broker/admission.h"
#include "broker/store/store.h"
#include "util/mailbox.h"

struct fixture {
    char directory[64], where[96], path[96];
    struct mailbox completions;
    struct store *store;
    struct admission *admission;
    struct admission_options limits;
    int64_t waiting_maximum;
    unsigned counter;         /* for ids */
    int64_t alice, bob, mesh; /* member keys, mesh key; set by fixture_make_mesh */
};

extern const char MESH_ID[], ALICE[], BOB[], CAROL[];
enum { FIXTURE_NOW = 1800000000 };
int64_t fixture_now_ms(void); /* a clock that tests move */
void fixture_set_now_ms(int64_t now_ms);

int fixture_setup(void **state);
int fixture_teardown(void **state);
void fixture_open(struct fixture *fixture);
void fixture_close(struct fixture *fixture);
/* Runs completions until *done. */
void fixture_wait(struct fixture *fixture, const bool *done);
/* A request's done for stack requests: argument is the flag. */
void fixture_done(struct store_request *request);

void fixture_make_mesh(struct fixture *fixture); /* alice is the owner, bob has joined */
enum store_join_outcome fixture_join(struct fixture *fixture, const char *pubkey, const char *invite, int64_t max_uses,
                                     int64_t *ret_member);
/* A welcome; returns the session's key (0: send-only). */
int64_t fixture_hello(struct fixture *fixture, const char *pubkey, const char *session_uid, bool alone);
/* Fills a direct message; ids and fingerprint of `id`. */
void fixture_message(struct fixture *fixture, struct store_accept *accept, int64_t sender, const char *to, const char *id);
enum store_outcome fixture_send(struct fixture *fixture, struct store_accept *accept); /* fails the test when the store fails */
enum store_outcome fixture_send_simply(struct fixture *fixture, int64_t sender, const char *to, const char *id);
size_t fixture_fetch(struct fixture *fixture, int64_t member, int64_t session, char ids[][32], size_t limit);
int64_t fixture_number(struct fixture *fixture, const char *sql); /* by a connection of its own */
void fixture_execute(struct fixture *fixture, const char *sql);   /* the store must be closed */
struct store_ack fixture_acknowledge(struct fixture *fixture, int64_t member, int64_t session, const char *broker_message_id,
                                     enum store_ack_kind kind);
/* `by`: under which key it came in; "": the member's. */
struct store_ack fixture_acknowledge_by(struct fixture *fixture, int64_t member, int64_t session, const char *broker_message_id,
                                        enum store_ack_kind kind, const char *by);
enum store_statement_outcome fixture_state(struct fixture *fixture, enum store_statement_kind kind, const char *subject, const char *by,
                                           const char *value, int64_t seq);

#endif
