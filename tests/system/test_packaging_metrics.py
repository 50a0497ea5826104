"""packaging/: every expression of dashboards and alerts names metrics and labels that are there, and promtool finds nothing to say about rules or output."""

import json
import os
import re
import shutil
import subprocess

import pytest

from harness import ROOT, Broker, Node, create_mesh, join
from test_metrics import BROKER_PAGE, DAEMON_PAGE, Text

PACKAGING = ROOT / "packaging"
RULES = PACKAGING / "prometheus/claudemesh-alerts.yml"
NAME = re.compile(r"\b(cm_(?:daemon|broker)_[a-z_]+)(?:\{([^}]*)\})?")


@pytest.fixture(scope="session")
def promtool():
    """Fetched when somebody asks for everything (CI=true); else used where it is."""
    kept = ROOT / "build/tools/promtool"
    if os.environ.get("CI") == "true":
        return subprocess.run([ROOT / "script/promtool"], check=True, capture_output=True, text=True).stdout.strip()
    if found := shutil.which("promtool") or (str(kept) if kept.exists() else None):
        return found
    pytest.skip("promtool is not here; script/promtool fetches it")


@pytest.fixture
def outputs(world):
    """Of a daemon and a broker that have done something."""
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.up("--tcp-port", "0"), bob.up()
    alice.wait_connected(), bob.wait_connected()
    for key in ("one", "one", "two"):
        alice.api.post("/v1/send?wait=20", {"to": "bob", "message": "hello", "client_message_id": key})
    bob.wait_inbox(2)
    alice.tcp_api(token=False).get("/v1/health")
    broker.kill()
    alice.wait_connected(False)
    broker.start()
    alice.wait_connected()
    daemon = alice.api.get("/v1/metrics").body.decode()
    return {"daemon": daemon, "broker": broker.get("/metrics").body.decode()}


def expressions():
    found = []
    for path in sorted((PACKAGING / "grafana").glob("*.json")):
        document = json.loads(path.read_text())
        assert document["uid"] and document["title"] and document["panels"]
        ids = [panel["id"] for panel in document["panels"]]
        assert len(ids) == len(set(ids))
        for panel in document["panels"]:
            assert panel["targets"], panel["title"]
            found += [(f"{path.name}: {panel['title']}", target["expr"], target["legendFormat"]) for target in panel["targets"]]
        for variable in document["templating"]["list"]:
            if variable["type"] == "query":
                found.append((f"{path.name}: ${variable['name']}", variable["query"]["query"], ""))
    text = RULES.read_text()
    for match in re.finditer(r"- alert: (\w+)\n\s+expr: (>-\n(?:\s{10}.*\n)+|.*\n)", text):
        found.append((match[1], match[2].replace(">-", ""), ""))
    assert len(found) > 50
    return found


def test_every_expression_uses_metrics_and_labels_that_exist(outputs):
    printed = {**Text(outputs["daemon"]).types, **Text(outputs["broker"]).types}
    labels = {**DAEMON_PAGE, **BROKER_PAGE}
    for where, expression, legend in expressions():
        names = NAME.findall(expression)
        assert names or "up{" in expression, f"{where}: {expression}"
        for name, selector in names:
            base = re.sub(r"_(bucket|sum|count)$", "", name) if re.sub(r"_(bucket|sum|count)$", "", name) in printed else name
            assert base in printed, f"{where}: there is no {name}"
            assert (base != name) == (printed[base] == "histogram"), f"{where}: {name} is a {printed[base]}"
            assert ("rate(" in expression or "increase(" in expression) or printed[base] != "counter" or "atomicity" in name, f"{where}: a bare counter"
            known = labels.get(base, set()) | {"instance", "job", "le"}
            used = {part.split("=")[0].strip("!~ ") for part in selector.split(",") if part}
            assert used <= known, f"{where}: {used - known} of {name}"
            for grouped in re.findall(r"by \(([^)]*)\)", expression):
                assert {label.strip() for label in grouped.split(",")} <= known, f"{where}: by ({grouped}) of {name}"
            assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= known, f"{where}: {legend}"


def test_every_metric_of_the_page_is_on_a_dashboard():
    shown = {re.sub(r"_bucket$", "", name) for _, expression, _ in expressions() for name, _ in NAME.findall(expression)}
    assert set(DAEMON_PAGE) | set(BROKER_PAGE) <= shown


def test_promtool_has_nothing_to_say_about_either_output(promtool, outputs):
    for part, text in outputs.items():
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
        said = [line for line in (done.stdout + done.stderr).splitlines() if line and "cm_daemon_lag_ms" not in line]  # the page's own name: milliseconds
        assert not said, f"{part}: {said}"


def test_the_rules_are_sound_and_each_alert_fires_on_what_it_is_for(promtool):
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True)
    tests = RULES.with_name("claudemesh-alerts.test.yml")
    done = subprocess.run([promtool, "test", "rules", tests.name], cwd=tests.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tested = tests.read_text()
    for alert in alerts:
        assert f"alertname: {alert}\n" in tested and f"alertname: {alert}, eval_time" in tested, f"{alert} is not tested both ways"
