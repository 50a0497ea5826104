/* A passphrase, from a file or from the terminal, never from an argument or the environment. */
#ifndef CLI_PASSPHRASE_H
#define CLI_PASSPHRASE_H

#include "cli/command.h"
#include "util/buffer.h"

#define PASSPHRASE_OPTION                                                                                                          \
    {                                                                                                                              \
        "passphrase-file", 0, OPTION_VALUE, "F", "read the passphrase from the first line of a file, instead of from the terminal" \
    }

/* --passphrase-file, else asked on the terminal without echo; twice with `confirm`. EXIT_DONE, or what was printed. The buffer is made secret here; release it whatever comes back. */
int passphrase_get(struct cli *cli, bool confirm, struct buffer *ret_passphrase);

#endif
