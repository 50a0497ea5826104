/* Figures: what is counted where, and that nobody can make more label values than a collector can bear. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "ipc/metrics_internal.h"

static uint64_t value_of(const struct metrics_family *family, const char *first, const char *second)
{
    for (const struct metrics_series *series = family->series; series != NULL; series = series->next) {
        bool same = strcmp(series->labels[0], first) == 0 &&
                    (second == NULL ? series->labels[1] == NULL : series->labels[1] != NULL && strcmp(series->labels[1], second) == 0);
        if (same) {
            return series->value;
        }
    }
    return 0;
}

static void a_run_of_a_hook_is_counted_by_how_it_ended(void **state)
{
    (void)state;
    struct ipc_metrics *metrics = ipc_metrics_new();
    ipc_metrics_hook_run(metrics, "on-dm", 0, 12);
    ipc_metrics_hook_run(metrics, "on-dm", 0, 60001);
    ipc_metrics_hook_run(metrics, "on-dm", 3, 1);
    ipc_metrics_hook_run(metrics, "on-dm", HOOK_EXIT_TIMEOUT, 30000);
    ipc_metrics_hook_run(metrics, "on-dm", HOOK_EXIT_SIGNAL, 1);
    ipc_metrics_hook_run(metrics, "on-dm", HOOK_EXIT_NOT_STARTED, 1);
    assert_int_equal(value_of(&metrics->hook_runs, "on-dm", "0"), 2);
    assert_int_equal(value_of(&metrics->hook_runs, "on-dm", "3"), 1);
    assert_int_equal(value_of(&metrics->hook_runs, "on-dm", "timeout"), 1);
    assert_int_equal(value_of(&metrics->hook_runs, "on-dm", "signal"), 1);
    assert_int_equal(value_of(&metrics->hook_runs, "on-dm", "not_started"), 1);
    uint64_t observed = 0;
    for (size_t i = 0; i <= METRICS_BUCKETS; i++) {
        observed += metrics->hook_durations->duration_ms.buckets[i];
    }
    assert_int_equal(observed, 5); /* what was not started took no time */
    assert_int_equal(metrics->hook_durations->duration_ms.buckets[METRICS_BUCKETS], 1);
    ipc_metrics_free(metrics);
}

static void label_values_are_bounded_and_the_rest_is_other(void **state)
{
    (void)state;
    struct ipc_metrics *metrics = ipc_metrics_new();
    enum { MANY = 5000 };
    for (int i = 0; i < MANY; i++) {
        char hook[32];
        (void)snprintf(hook, sizeof hook, "on-topic-%d", i);
        ipc_metrics_hook_run(metrics, hook, 0, 1);
        ipc_metrics_hook_unenforceable(metrics, hook, "network");
        ipc_metrics_disk_pct(metrics, hook, 200);
    }
    assert_true(metrics->hook_runs.count <= 2049 && metrics->hook_count <= 257);
    assert_int_equal(value_of(&metrics->hook_runs, "other", "other") + 2048, MANY);
    assert_int_equal(value_of(&metrics->hook_unenforceable, "other", "other") + 2048, MANY);
    size_t disks = 0;
    for (const struct disk_figure *disk = metrics->disks; disk != NULL; disk = disk->next) {
        assert_int_equal(disk->pct, 100);
        disks++;
    }
    assert_int_equal(disks, 8);
    ipc_metrics_free(metrics);
}

static void a_mesh_that_was_left_takes_its_figures_with_it(void **state)
{
    (void)state;
    struct ipc_metrics *metrics = ipc_metrics_new();
    const char *const meshes[] = { "a", "b" };
    for (size_t i = 0; i < 2; i++) {
        ipc_metrics_send(metrics, meshes[i], "dm", SEND_DUPLICATE);
        ipc_metrics_received(metrics, meshes[i], "dm");
        ipc_metrics_delivery(metrics, meshes[i], DELIVERY_DUPLICATE_OUT, NULL);
        ipc_metrics_delivery(metrics, meshes[i], DELIVERY_RECONNECTED, "replaced");
    }
    ipc_metrics_forget_mesh(metrics, "a");
    assert_int_equal(value_of(&metrics->dedupe, "a", "out"), 0);
    assert_int_equal(value_of(&metrics->dedupe, "b", "out"), 2);
    assert_int_equal(value_of(&metrics->reconnects, "a", "replaced"), 0);
    assert_int_equal(value_of(&metrics->reconnects, "b", "replaced"), 1);
    assert_string_equal(metrics->traffic->mesh, "b");
    assert_null(metrics->traffic->next);
    ipc_metrics_free(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_of_a_hook_is_counted_by_how_it_ended),
        cmocka_unit_test(label_values_are_bounded_and_the_rest_is_other),
        cmocka_unit_test(a_mesh_that_was_left_takes_its_figures_with_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
