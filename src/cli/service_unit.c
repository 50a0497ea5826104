/* Owns the text of the units and how paths and names are quoted in each format. Must not touch files or processes. */
#include "cli/service_unit.h"

#include <string.h>

#include "util/text.h"

/* ---- what no format carries --------------------------------------------------------------------------------------------- */

/* A line feed would end the line, and begin another directive; nobody needs the other control characters either. */
static int check_text(const char *what, const char *text, struct error *error)
{
    if (text == NULL)
        return 0;
    if (!utf8_is_valid(text, strlen(text)))
        return error_set(error, ERROR_INVALID, "%s is not valid UTF-8; no service manager takes such a name", what);
    for (const char *at = text; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return error_set(error, ERROR_INVALID,
                             "%s holds a line feed or another control character; no service manager takes such a name", what);
    return 0;
}

static int check_unit(const struct service_unit *unit, struct error *error)
{
    int status = check_text("the program's path", unit->binary, error);
    if (status == 0)
        status = check_text("the configuration directory", unit->config_dir, error);
    if (status == 0)
        status = check_text("the display name", unit->display_name, error);
    return status == 0 ? check_text("the user's name", unit->user, error) : status;
}

/* ---- systemd -------------------------------------------------------------------------------------------------------------- */

enum quoting {
    QUOTE_ARGUMENT, /* of ExecStart=: $ begins a variable */
    QUOTE_PATH      /* of the other directives, and the program itself, which is never expanded */
};

/* In double quotes. A double quote itself stands in single ones: not every directive takes it after a backslash. */
static void quote_systemd(struct buffer *text, const char *word, enum quoting quoting)
{
    buffer_append_byte(text, '"');
    for (const char *at = word; *at != '\0'; at++) {
        if (*at == '"') {
            buffer_append_text(text, "\"'\"'\"");
            continue;
        }
        if (*at == '%' || *at == '\\' || (*at == '$' && quoting == QUOTE_ARGUMENT))
            buffer_append_byte(text, *at);
        buffer_append_byte(text, *at);
    }
    buffer_append_byte(text, '"');
}

static void append_argument(struct buffer *text, const char *word)
{
    buffer_append_byte(text, ' ');
    quote_systemd(text, word, QUOTE_ARGUMENT);
}

/* systemd refuses a program whose own path has quotes or backslashes in it, however they are written; a shell's argument may have them. */
static void append_program(struct buffer *text, const char *binary)
{
    if (strpbrk(binary, "\"'\\") == NULL) {
        quote_systemd(text, binary, QUOTE_PATH);
        return;
    }
    buffer_append_text(text, "/bin/sh -c 'exec \"$$0\" \"$$@\"'");
    append_argument(text, binary);
}

static void append_exec_start(const struct service_unit *unit, struct buffer *text)
{
    buffer_append_text(text, "ExecStart=");
    append_program(text, unit->binary);
    append_argument(text, "--config-dir");
    append_argument(text, unit->config_dir);
    if (unit->mesh != NULL) {
        append_argument(text, "--mesh");
        append_argument(text, unit->mesh);
    }
    buffer_append_text(text, " daemon up --foreground --persistent");
    if (unit->display_name != NULL) {
        append_argument(text, "--name");
        append_argument(text, unit->display_name);
    }
    buffer_append_byte(text, '\n');
}

static bool is_below(const char *path, const char *directory)
{
    size_t length = strlen(directory);
    return strncmp(path, directory, length) == 0 && path[length] == '/';
}

/* PrivateTmp= would hide what lies there from the service. */
static void append_binding(struct buffer *text, const char *directive, const char *path)
{
    if (!is_below(path, "/tmp") && !is_below(path, "/var/tmp"))
        return;
    buffer_append_text(text, directive);
    quote_systemd(text, path, QUOTE_PATH);
    buffer_append_byte(text, '\n');
}

/* What a hook may need stays: user namespaces (network_policy, bubblewrap), a whole /proc to mount a fresh one from (so none of ProtectKernelTunables=,
 * ProtectKernelLogs=, ProtectProc=), just-in-time compilers (no MemoryDenyWriteExecute=). What the daemon itself must not do it forbids itself. */
static const char HARDENING[] = "UMask=0077\n"
                                "LimitNOFILE=1024\n"
                                "LimitCORE=0\n"
                                "TasksMax=128\n"
                                "MemoryMax=256M\n"
                                "NoNewPrivileges=yes\n"
                                "PrivateUsers=yes\n"
                                "PrivateTmp=yes\n"
                                "ProtectSystem=strict\n"
                                "ProtectHome=read-only\n"
                                "ProtectClock=yes\n"
                                "ProtectHostname=yes\n"
                                "ProtectKernelModules=yes\n"
                                "LockPersonality=yes\n"
                                "RestrictRealtime=yes\n"
                                "RestrictSUIDSGID=yes\n"
                                "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n"
                                "SystemCallArchitectures=native\n"
                                "SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap\n"
                                "SystemCallErrorNumber=EPERM\n";

static void append_systemd(const struct service_unit *unit, struct buffer *ret_text)
{
    buffer_append_text(ret_text,
                       "# Written by `claudemesh daemon install-service`, which writes it again; what you want otherwise goes into\n"
                       "# " SERVICE_UNIT_NAME ".d/*.conf.\n"
                       "[Unit]\n"
                       "Description=claudemesh daemon\n"
                       "Documentation=man:claudemesh-daemon(8)\n");
    if (unit->user != NULL)
        buffer_append_text(ret_text, "Wants=network-online.target\nAfter=network-online.target\n");
    buffer_append_text(ret_text, "StartLimitIntervalSec=5min\n"
                                 "StartLimitBurst=5\n"
                                 "\n"
                                 "[Service]\n"
                                 "Type=notify\n");
    append_exec_start(unit, ret_text);
    if (unit->user != NULL) {
        buffer_append_text(ret_text, "User=");
        for (const char *at = unit->user; *at != '\0'; at++)
            buffer_append_text(ret_text, *at == '%' ? "%%" : (const char[]){ *at, '\0' });
        buffer_append_text(ret_text, "\nCapabilityBoundingSet=\n");
    }
    buffer_append_text(ret_text, "ExecReload=/bin/kill -HUP $MAINPID\n"
                                 "WatchdogSec=30\n"
                                 "Restart=on-failure\n"
                                 "RestartSec=5\n"
                                 /* another host's identity, a refused link: it would be the same again */
                                 "RestartPreventExitStatus=4 8\n"
                                 "TimeoutStartSec=5min\n"
                                 "TimeoutStopSec=15\n"
                                 "KillMode=mixed\n");
    buffer_append_text(ret_text, HARDENING);
    buffer_append_text(ret_text, "ReadWritePaths=");
    quote_systemd(ret_text, unit->config_dir, QUOTE_PATH);
    buffer_append_byte(ret_text, '\n');
    append_binding(ret_text, "BindPaths=", unit->config_dir);
    append_binding(ret_text, "BindReadOnlyPaths=", unit->binary);
    buffer_append_text(ret_text, "\n[Install]\nWantedBy=");
    buffer_append_text(ret_text, unit->user != NULL ? "multi-user.target\n" : "default.target\n");
}

/* ---- launchd ---------------------------------------------------------------------------------------------------------------- */

static void append_xml(struct buffer *text, const char *value)
{
    for (const char *at = value; *at != '\0'; at++) {
        if (*at == '&')
            buffer_append_text(text, "&amp;");
        else if (*at == '<')
            buffer_append_text(text, "&lt;");
        else if (*at == '>')
            buffer_append_text(text, "&gt;");
        else
            buffer_append_byte(text, *at);
    }
}

static void append_item(struct buffer *text, const char *value)
{
    buffer_append_text(text, "    <string>");
    append_xml(text, value);
    buffer_append_text(text, "</string>\n");
}

static void append_program_arguments(const struct service_unit *unit, struct buffer *text)
{
    const char *const arguments[] = {
        unit->binary, "--config-dir", unit->config_dir, unit->mesh != NULL ? "--mesh" : NULL,         unit->mesh,        "daemon",
        "up",         "--foreground", "--persistent",   unit->display_name != NULL ? "--name" : NULL, unit->display_name
    };
    for (size_t i = 0; i < ARRAY_LENGTH(arguments); i++)
        if (arguments[i] != NULL)
            append_item(text, arguments[i]);
}

static void append_launchd(const struct service_unit *unit, struct buffer *ret_text)
{
    buffer_append_text(ret_text,
                       "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                       "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n"
                       "<plist version=\"1.0\">\n"
                       "<dict>\n"
                       "  <key>Label</key>\n"
                       "  <string>" SERVICE_LABEL "</string>\n"
                       "  <key>ProgramArguments</key>\n"
                       "  <array>\n");
    append_program_arguments(unit, ret_text);
    buffer_append_text(ret_text, "  </array>\n");
    if (unit->user != NULL) {
        buffer_append_text(ret_text, "  <key>UserName</key>\n  <string>");
        append_xml(ret_text, unit->user);
        buffer_append_text(ret_text, "</string>\n");
    }
    buffer_append_text(ret_text, "  <key>RunAtLoad</key>\n"
                                 "  <true/>\n"
                                 "  <key>KeepAlive</key>\n"
                                 "  <dict>\n"
                                 "    <key>SuccessfulExit</key>\n"
                                 "    <false/>\n"
                                 "  </dict>\n"
                                 "  <key>ThrottleInterval</key>\n"
                                 "  <integer>60</integer>\n" /* five starts in five minutes */
                                 "  <key>ExitTimeOut</key>\n"
                                 "  <integer>15</integer>\n"
                                 "  <key>ProcessType</key>\n"
                                 "  <string>Background</string>\n"
                                 "  <key>Umask</key>\n"
                                 "  <integer>63</integer>\n" /* 0077 */
                                 "  <key>SoftResourceLimits</key>\n"
                                 "  <dict>\n"
                                 "    <key>Core</key>\n"
                                 "    <integer>0</integer>\n"
                                 "    <key>NumberOfFiles</key>\n"
                                 "    <integer>1024</integer>\n"
                                 "  </dict>\n"
                                 "</dict>\n"
                                 "</plist>\n");
}

/* ---- both ------------------------------------------------------------------------------------------------------------------- */

int service_unit_render(const struct service_unit *unit, enum service_manager manager, struct buffer *ret_text, struct error *error)
{
    int status = check_unit(unit, error);
    if (status != 0)
        return status;
    if (manager == SERVICE_SYSTEMD)
        append_systemd(unit, ret_text);
    else
        append_launchd(unit, ret_text);
    return 0;
}

bool service_unit_serves(const char *text, enum service_manager manager, const char *config_dir)
{
    struct buffer wanted;
    buffer_init(&wanted, BUFFER_UNLIMITED);
    if (manager == SERVICE_SYSTEMD) {
        append_argument(&wanted, "--config-dir");
        append_argument(&wanted, config_dir);
    } else {
        append_item(&wanted, "--config-dir");
        append_item(&wanted, config_dir);
    }
    bool found = strstr(text, wanted.data) != NULL;
    buffer_release(&wanted);
    return found;
}
