/* Owns the form of a leave request: the statement's fields, and 40-wire's names for the same things. */
#include "proto/member_leave.h"

#include "json/json.h"
#include "proto/statement.h"

int member_leave_make(const char *mesh_id, const char *member_id, const struct keypair *keys, int64_t at_ms, json_t **ret_request,
                      struct error *error)
{
    char signature[SIGNATURE_HEX_SIZE];
    json_t *request = json_new_object();
    json_put_string(request, "type", "member_leave");
    json_put_string(request, "mesh", mesh_id);
    json_put_string(request, "member_id", member_id);
    json_put_string(request, "pubkey", keypair_public_hex(keys));
    json_put_integer(request, "at", at_ms);
    int status = statement_sign_json(STATEMENT_LEAVE, request, keys, signature, error);
    if (status != 0) {
        json_decref(request);
        return status;
    }
    json_put_string(request, "by", keypair_public_hex(keys));
    json_put_string(request, "sig", signature);
    json_put_integer(request, "timestamp", at_ms);
    json_put_string(request, "signature", signature);
    *ret_request = request;
    return 0;
}
