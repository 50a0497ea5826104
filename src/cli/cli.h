/* The command line (10-cli): parses global flags, finds the command's row, runs it. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

int cli_main(int argc, char **argv); /* returns the process's exit status */

#endif
