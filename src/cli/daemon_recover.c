/* `claudemesh daemon recover`: what is wrong with the databases, and what was saved of them. Opens none itself: rescue/ does. */
#include "cli/meshes.h"
#include "cli/output.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "rescue/rescue.h"
#include "util/memory.h"
#include "util/text.h"

enum { IDS_SHOWN = 20 };

static const struct cli_option OPTIONS[] = {
    { "yes", 'y', OPTION_FLAG, NULL, "do not ask; without it, and without a terminal, it only looks" },
    { "rebuild-inbox", 0, OPTION_FLAG, NULL, "ask the brokers for what the inbox may lack, although it is whole" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static const char *const VERDICTS[] = { [RESCUE_ABSENT] = "absent", [RESCUE_WHOLE] = "whole", [RESCUE_DAMAGED] = "damaged" };

/* ---- JSON ------------------------------------------------------------------------------------------------------------------ */

static json_t *states_to_json(const int64_t rows[static OUTBOX_STATES])
{
    json_t *object = json_new_object();
    for (enum outbox_state state = 0; state < OUTBOX_STATES; state++)
        json_put_integer(object, outbox_state_name(state), rows[state]);
    return object;
}

static json_t *database_to_json(const struct rescue_database *database)
{
    json_t *object = json_new_object();
    json_put_string(object, "state", VERDICTS[database->verdict]);
    json_put_string(object, "finding", database->finding[0] == '\0' ? NULL : database->finding);
    json_put_string(object, "kept_as", database->aside);
    json_put_integer(object, "rows_salvaged", database->rows);
    json_put_integer(object, "other_rows_salvaged", database->other_rows);
    json_put_integer(object, "pages_unreadable", database->bad_pages);
    json_put_integer(object, "cells_unreadable", database->bad_cells);
    json_put_integer(object, "rows_lost", database->lost);
    return object;
}

static void print_json(const struct rescue_report *report, bool applied)
{
    json_t *document = json_new_object(), *outbox = database_to_json(&report->outbox), *ids = json_new_array();
    for (size_t i = 0; i < report->lost_id_count; i++)
        json_array_append_new(ids, json_string(report->lost_ids[i]));
    json_put(outbox, "salvaged_by_state", states_to_json(report->outbox_rows));
    json_put(outbox, "lost_ids", ids);
    json_put_integer(outbox, "rows_without_payload", report->without_payload);
    json_put_integer(outbox, "rows_content_differs", report->content_differs);
    json_put_bool(document, "applied", applied);
    json_put_bool(document, "finished_earlier", report->finished_earlier);
    json_put(document, "outbox", outbox);
    json_put(document, "inbox", database_to_json(&report->inbox));
    json_put_bool(document, "trust_damaged", report->trust_damaged);
    json_put_bool(document, "inbox_rebuild", report->rebuild_inbox);
    cli_print_json(document);
    json_decref(document);
}

/* ---- text ------------------------------------------------------------------------------------------------------------------ */

static void say_finding(const struct cli *cli, const char *name, const struct rescue_database *database)
{
    if (database->verdict == RESCUE_DAMAGED)
        cli_say(cli, "%s is damaged: %s", name, database->finding);
    else
        cli_say(cli, "%s is %s", name, database->verdict == RESCUE_WHOLE ? "whole" : "not there");
}

static void say_salvaged(const struct cli *cli, const char *name, const struct rescue_database *database)
{
    if (database->aside == NULL)
        return;
    cli_say(cli, "%s: %" PRId64 " messages and %" PRId64 " other rows are in the new file; the damaged one is kept as %s", name,
            database->rows, database->other_rows, database->aside);
    if (database->bad_pages > 0 || database->bad_cells > 0)
        cli_say(cli, "%s: could not read %" PRId64 " pages and %" PRId64 " cells", name, database->bad_pages, database->bad_cells);
    if (database->lost > 0)
        cli_say(cli, "%s: %" PRId64 " messages are lost; only their ids are known", name, database->lost);
}

static void say_outbox(const struct cli *cli, const struct rescue_report *report)
{
    if (report->outbox.aside == NULL)
        return;
    for (enum outbox_state state = 0; state < OUTBOX_STATES; state++) {
        if (report->outbox_rows[state] > 0)
            cli_say(cli, "  %" PRId64 " %s", report->outbox_rows[state], outbox_state_name(state));
    }
    if (report->without_payload > 0)
        cli_say(cli, "  of these %" PRId64 " are aborted now, because what was to be sent is gone; their ids stay taken",
                report->without_payload);
    if (report->content_differs > 0)
        cli_say(cli,
                "  of these %" PRId64
                " are dead now, because they are not what was accepted (damage, or a pre-send hook): see 'claudemesh daemon outbox "
                "list --failed', and requeue what is right",
                report->content_differs);
    for (size_t i = 0; i < report->lost_id_count && i < IDS_SHOWN; i++)
        cli_say(cli, "  lost: %s", report->lost_ids[i]);
    if (report->outbox.lost > IDS_SHOWN)
        cli_say(cli, "  and %" PRId64 " more (--json lists up to %d)", report->outbox.lost - IDS_SHOWN, (int)RESCUE_IDS_MAXIMUM);
    if (report->outbox.lost > 0)
        cli_say(cli, "  a lost message that is sent again under its own id is not sent twice: the broker knows the id");
    if (report->trust_damaged)
        cli_say(cli,
                "what was known of members is not whole: nothing is sent before the broker has listed them; compare safety numbers again "
                "('claudemesh verify')");
}

static void say_applied(const struct cli *cli, const struct rescue_report *report)
{
    say_salvaged(cli, "outbox.db", &report->outbox);
    say_outbox(cli, report);
    say_salvaged(cli, "inbox.db", &report->inbox);
    if (report->rebuild_inbox)
        cli_say(cli, "at the next start the brokers are asked for what the inbox lacks");
    cli_say(cli, "start the daemon with 'claudemesh daemon up'");
}

/* ---- asking ----------------------------------------------------------------------------------------------------------------- */

static bool agrees(struct cli *cli)
{
    if (cli_has(cli, "yes"))
        return true;
    return !cli->json && meshes_can_ask() && meshes_confirm("Save what can be read into new files, and keep the damaged ones?");
}

static bool needs_work(const struct cli *cli, const struct rescue_report *report)
{
    return report->finished_earlier || report->outbox.verdict == RESCUE_DAMAGED || report->inbox.verdict == RESCUE_DAMAGED ||
           cli_has(cli, "rebuild-inbox");
}

static int run(struct cli *cli)
{
    struct rescue_report report;
    struct error error = { 0 };
    if (crypto_start(&error) != 0 || rescue_run(&cli->paths, &(struct rescue_options){ .apply = false }, &report, &error) != 0)
        return cli_fail_error(cli, &error);
    bool work = needs_work(cli, &report);
    if (report.finished_earlier)
        cli_say(cli, "an earlier recovery was interrupted");
    say_finding(cli, "outbox.db", &report.outbox);
    say_finding(cli, "inbox.db", &report.inbox);
    if (!work || !agrees(cli)) {
        if (cli->json)
            print_json(&report, false);
        else if (work)
            cli_note(cli, "nothing was changed; run it with --yes");
        rescue_report_release(&report);
        return work ? EXIT_FAILED : EXIT_DONE;
    }
    rescue_report_release(&report);
    const struct rescue_options options = { .apply = true, .rebuild_inbox = cli_has(cli, "rebuild-inbox") };
    if (rescue_run(&cli->paths, &options, &report, &error) != 0)
        return cli_fail_error(cli, &error);
    if (cli->json)
        print_json(&report, true);
    else
        say_applied(cli, &report);
    rescue_report_release(&report);
    return EXIT_DONE;
}

const struct cli_command COMMAND_DAEMON_RECOVER = {
    .name = "daemon recover",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Checks both databases; saves what can be read of a damaged one",
    .example = "claudemesh daemon recover --yes",
    .options = OPTIONS,
    .run = run,
};
