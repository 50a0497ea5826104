/* Owns the reader thread: queries, one after another, each in a read transaction. Never writes. */
#include "db/internal.h"

static const char BEGIN[] = "BEGIN";
static const char COMMIT[] = "COMMIT";

static void run_query(struct db *db, struct db_task *task)
{
    task->error = (struct error){ .code = ERROR_NONE };
    task->status = db_execute(&db->reader, &task->error, NULL, BEGIN, "");
    if (task->status < 0) {
        return;
    }
    task->status = task->run(&db->reader, task);
    connection_settle(&db->reader);
    /* A snapshot that stayed open would keep every checkpoint from finishing. */
    if (sqlite3_get_autocommit(db->reader.handle) == 0) {
        struct error error;
        int status = db_execute(&db->reader, &error, NULL, COMMIT, "");
        if (status < 0 && task->status >= 0) {
            task->status = status;
            task->error = error;
        }
    }
}

void *reader_main(void *argument)
{
    struct db *db = argument;
    for (;;) {
        bool closed = false;
        struct message *waiting = mailbox_wait_all(&db->read_queue, -1, &closed);
        if (closed) {
            return NULL;
        }
        while (waiting != NULL) {
            struct db_task *task = CONTAINER_OF(waiting, struct db_task, message);
            waiting = waiting->next;
            run_query(db, task);
            struct task_list finished = { .first = NULL };
            task_tell_failure(db, task);
            task_finish(task, &finished);
            task_list_post(db, &finished);
        }
    }
}
