/* Owns a task's way: into a queue, and back to who waits for it. Must not run it. */
#include <stddef.h>

#include "db/internal.h"
#include "util/clock.h"

struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t finished_condition;
    bool finished;
};

static void deliver(struct message *message)
{
    struct db_task *task = CONTAINER_OF(message, struct db_task, message);
    task->done(task);
}

static void submit(struct mailbox *queue, struct db_task *task, struct waiter *waiter)
{
    task->message = (struct message){ .handle = deliver };
    task->status = 0;
    task->waiter = waiter;
    task->submitted_us = clock_monotonic_us();
    if ((task->flags & DB_PATIENT) != 0 && waiter == NULL) {
        mailbox_post_patient(queue, &task->message, DB_PATIENCE_MS);
    } else {
        mailbox_post(queue, &task->message);
    }
}

/* After db_stop nobody runs a task: it goes straight back, so that what waits for its end is told. */
static void refuse(struct db *db, struct db_task *task)
{
    task->message = (struct message){ .handle = deliver };
    task->waiter = NULL;
    task->status = error_set(&task->error, ERROR_UNREACHABLE, "the database is closed");
    mailbox_post(db->completions, &task->message);
}

void db_write(struct db *db, struct db_task *task)
{
    if (db->stopped) {
        refuse(db, task);
        return;
    }
    atomic_fetch_add(&db->write_backlog, 1);
    submit(&db->write_queue, task, NULL);
}

void db_read(struct db *db, struct db_task *task)
{
    if (db->stopped) {
        refuse(db, task);
        return;
    }
    submit(&db->read_queue, task, NULL);
}

static int wait_for(struct mailbox *queue, struct db_task *task)
{
    struct waiter waiter = { .mutex = PTHREAD_MUTEX_INITIALIZER, .finished_condition = PTHREAD_COND_INITIALIZER };
    submit(queue, task, &waiter);
    pthread_mutex_lock(&waiter.mutex);
    while (!waiter.finished) {
        pthread_cond_wait(&waiter.finished_condition, &waiter.mutex);
    }
    pthread_mutex_unlock(&waiter.mutex);
    pthread_cond_destroy(&waiter.finished_condition);
    pthread_mutex_destroy(&waiter.mutex);
    return task->status;
}

int db_write_wait(struct db *db, struct db_task *task)
{
    atomic_fetch_add(&db->write_backlog, 1);
    return wait_for(&db->write_queue, task);
}

int db_read_wait(struct db *db, struct db_task *task)
{
    return wait_for(&db->read_queue, task);
}

void task_tell_failure(struct db *db, const struct db_task *task)
{
    enum { A_SECOND_MS = 1000 };
    enum error_code code = task->status < 0 ? task->error.code : ERROR_NONE;
    if (db->failed == NULL || (code != ERROR_SYSTEM && code != ERROR_INTERNAL && code != ERROR_CORRUPT && code != ERROR_DENIED)) {
        return;
    }
    int64_t now_ms = clock_monotonic_ms();
    int_fast64_t told_ms = atomic_load(&db->failure_told_ms);
    if ((told_ms == 0 || now_ms - told_ms >= A_SECOND_MS) && atomic_compare_exchange_strong(&db->failure_told_ms, &told_ms, now_ms)) {
        db->failed(db->argument, &task->error);
    }
}

void task_finish(struct db_task *task, struct task_list *finished)
{
    struct waiter *waiter = task->waiter;
    if (waiter != NULL) {
        /* Signalled under the mutex: once it is free, the waiter's stack may be gone. */
        pthread_mutex_lock(&waiter->mutex);
        waiter->finished = true;
        pthread_cond_signal(&waiter->finished_condition);
        pthread_mutex_unlock(&waiter->mutex);
        return;
    }
    task->message.next = NULL;
    if (finished->last == NULL) {
        finished->first = &task->message;
    } else {
        finished->last->next = &task->message;
    }
    finished->last = &task->message;
    finished->count++;
}

void task_list_post(struct db *db, struct task_list *finished)
{
    if (finished->first != NULL) {
        mailbox_post_list(db->completions, finished->first, finished->last, finished->count);
    }
}
