"""The daemon as a service (80-operations, Service): the units that are written, how hostile names are quoted in them, removal."""

import json
import os
import pathlib
import plistlib
import shutil

import pytest

from harness import BINARY, Node

UNIT = ".config/systemd/user/claudemesh-daemon.service"
HOSTILE = [
    "with spaces  and more",
    'double " quotes "',
    "single ' quote",
    "per % cent %h %%",
    "dollar $HOME ${HOME} $$",
    "back\\slash \\x41 \\",
    "am&per <sand> ]]>",
    "colon:semi;comma,hash#equals=",
    "-dash and !bang @at +plus",
    "ünïcödé ☃",
]


class Home:
    """A user of install-service, outside CI, with a home of its own."""

    def __init__(self, world, name="home"):
        self.world, self.home = world, world.directory / name
        self.home.mkdir()
        self.environment = world.environment(HOME=str(self.home))
        self.unit = self.home / UNIT

    def run(self, *arguments, check=0, binary=BINARY, **more):
        environment = dict(self.environment, **more)
        return self.world.run(binary, *arguments, environment=environment, check=check)


@pytest.fixture
def home(world):
    return Home(world)


def everything_below(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_relative_to(directory / ".claudemesh"))


def test_installing_writes_the_units_directives_and_says_how_to_start_it(home):
    done = home.run("daemon", "install-service").stdout.decode()
    assert str(home.unit) in done
    assert "systemctl --user daemon-reload && systemctl --user enable --now claudemesh-daemon.service" in done
    text = home.unit.read_text()
    lines = text.splitlines()
    for line in ("Type=notify", "WatchdogSec=30", "Restart=on-failure", "RestartSec=5", "StartLimitIntervalSec=5min", "StartLimitBurst=5",
                 "RestartPreventExitStatus=4 8", "PrivateUsers=yes", "MemoryMax=256M", "TasksMax=128", "LimitNOFILE=1024",
                 "NoNewPrivileges=yes", "PrivateTmp=yes", "ProtectSystem=strict", "ProtectHome=read-only", "WantedBy=default.target",
                 f'ReadWritePaths="{home.home}/.claudemesh"'):
        assert line in lines, line
    assert lines.index("StartLimitBurst=5") < lines.index("[Service]")  # where systemd reads it
    assert f'ExecStart="{os.path.realpath(BINARY)}" "--config-dir" "{home.home}/.claudemesh" daemon up --foreground' in text
    assert home.unit.stat().st_mode & 0o777 == 0o644
    assert (home.home / ".claudemesh").is_dir()  # a path that may be written must be there
    assert not list(home.unit.parent.glob("*.tmp-*"))


def test_installing_again_upgrades_in_place_and_says_when_nothing_changed(home):
    assert json.loads(home.run("daemon", "install-service", "--json").stdout)["changed"] is True
    first = home.unit.read_bytes()
    stamp = home.unit.stat().st_mtime_ns
    again = home.run("daemon", "install-service").stdout.decode()
    assert "the same" in again and home.unit.stat().st_mtime_ns == stamp
    home.unit.write_bytes(first + b"# touched\n")
    assert "anew" in home.run("daemon", "install-service").stdout.decode()
    assert home.unit.read_bytes() == first
    # a newer program, elsewhere
    other = home.home / "newer"
    shutil.copy(BINARY, other)
    home.run("daemon", "install-service", binary=str(other))
    assert f'ExecStart="{other}"' in home.unit.read_text()


def test_the_directory_in_effect_and_the_mesh_and_name_are_written(home):
    elsewhere = home.home / "else where"
    home.run("--config-dir", elsewhere, "--mesh", "acme", "daemon", "install-service", "--name", "Ann's %box")
    assert f'"--config-dir" "{elsewhere}" "--mesh" "acme" daemon up' in home.unit.read_text()
    assert '"--name" "Ann\'s %%box"' in home.unit.read_text()
    variable = home.home / "variable"
    variable.mkdir(mode=0o700)
    home.run("daemon", "install-service", CLAUDEMESH_CONFIG_DIR=str(variable))
    assert f'"--config-dir" "{variable}"' in home.unit.read_text()


@pytest.mark.parametrize("name", HOSTILE)
def test_launchd_reads_back_hostile_paths_and_names(home, name):
    directory = home.home / name
    directory.mkdir(mode=0o700)
    binary = directory / "claudemesh"
    shutil.copy(BINARY, binary)
    home.run("--config-dir", directory / "config", "daemon", "install-service", "--manager", "launchd", "--name", name, binary=str(binary))
    path = home.home / "Library/LaunchAgents/com.claudemesh.daemon.plist"
    with open(path, "rb") as file:
        agent = plistlib.load(file)
    assert agent["Label"] == "com.claudemesh.daemon" and agent["RunAtLoad"] is True
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["ProgramArguments"] == [str(binary), "--config-dir", str(directory / "config"), "daemon", "up", "--foreground",
                                         "--persistent", "--name", name]
    home.run("daemon", "uninstall-service", "--manager", "launchd")
    assert not path.exists()


@pytest.mark.parametrize("bad", ["line\nfeed", "tab\tin it", b"not \xff utf-8"])
def test_a_path_that_no_unit_can_hold_is_refused_and_nothing_is_written(home, bad):
    directory = os.path.join(os.fsencode(home.home), bad.encode() if isinstance(bad, str) else bad)
    os.mkdir(directory, 0o700)
    done = home.run("--config-dir", os.fsdecode(directory), "daemon", "install-service", check=None)
    assert done.returncode != 0 and b"service manager" in done.stderr
    assert not home.unit.exists()


@pytest.mark.parametrize("variable", ["CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL"])
def test_in_ci_it_refuses_unless_told(home, variable):
    refused = home.run("daemon", "install-service", check=1, **{variable: "true"})
    assert b"--allow-ci-persistent" in refused.stderr and everything_below(home.home) == []
    assert not (home.home / ".claudemesh").exists()
    home.run("daemon", "install-service", "--allow-ci-persistent", **{variable: "true"})
    assert home.unit.exists()


def test_uninstalling_leaves_nothing_but_the_configuration(home):
    home.run("daemon", "install-service")
    wants = home.unit.parent / "default.target.wants"
    wants.mkdir()
    (wants / home.unit.name).symlink_to(home.unit)
    done = home.run("daemon", "uninstall-service").stdout.decode()
    assert "removed" in done
    assert everything_below(home.home) == []
    assert (home.home / ".claudemesh").is_dir()
    again = home.run("daemon", "uninstall-service", "--json")
    assert json.loads(again.stdout)["removed"] is False


def test_uninstalling_leaves_what_is_somebody_elses(home):
    home.run("daemon", "install-service")
    neighbour = home.unit.parent / "neighbour.service"
    neighbour.write_text("[Service]\nExecStart=/bin/true\n")
    additions = pathlib.Path(str(home.unit) + ".d")
    additions.mkdir()
    (additions / "mine.conf").write_text("[Service]\nNice=5\n")
    done = home.run("daemon", "uninstall-service")
    assert not home.unit.exists() and neighbour.exists() and (additions / "mine.conf").exists()
    assert b"yours" in done.stderr


def test_a_system_unit_names_its_user_and_wrong_usage_is_told(home, world):
    image = world.directory / "image"
    image.mkdir()
    home.run("daemon", "install-service", "--system", "--root", image, check=2)  # whom it runs as is not known
    home.run("--config-dir", "/var/lib/mesh", "daemon", "install-service", "--system", "--root", image, "--run-as", "mesh%1")
    text = (image / "etc/systemd/system/claudemesh-daemon.service").read_text()
    assert "User=mesh%%1\n" in text and "WantedBy=multi-user.target" in text and 'ReadWritePaths="/var/lib/mesh"' in text
    assert "CapabilityBoundingSet=\n" in text and "PrivateUsers=yes" in text
    home.run("daemon", "uninstall-service", "--system", "--root", image)
    assert not (image / "etc/systemd/system/claudemesh-daemon.service").exists()
    home.run("daemon", "install-service", "--user", "--system", check=2)
    home.run("daemon", "install-service", "--run-as", "nobody", check=2)
    home.run("daemon", "install-service", "--now", "--root", image, check=2)
    home.run("daemon", "install-service", "--manager", "upstart", check=2)


def test_a_directory_that_belongs_to_another_user_is_not_served_by_this_one(home, world):
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a directory away")
    directory = world.directory / "theirs"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    done = home.run("--config-dir", directory, "daemon", "install-service", "--system", "--run-as", "root", check=1)
    assert b"belongs to nobody" in done.stderr


def test_a_restart_keeps_the_flags_that_the_daemon_was_started_with(world):
    node = Node(world, "alice")
    node.cli("daemon", "up", "--no-tcp", "--name", "Ann with a 'name'", check=0)
    try:
        first = pid_of(node)
        node.cli("daemon", "restart", check=0)
        second = pid_of(node)
        assert second != first and flags_of(second) == ["--no-tcp", "--name=Ann with a 'name'"]
        node.cli("daemon", "restart", check=0)  # and once more: what the second was started with
        third = pid_of(node)
        assert third != second and flags_of(third) == ["--no-tcp", "--name=Ann with a 'name'"]
        assert node.cli("daemon", "restart", "--tcp-port", "70000", check=2) and pid_of(node) == third
        node.cli("daemon", "restart", "--tcp-port", "0", check=0)  # these instead
        assert flags_of(pid_of(node)) == ["--tcp-port=0"]
    finally:
        node.cli("daemon", "down", check=0)
    node.cli("daemon", "restart", check=0)  # none runs: it is started
    node.cli("daemon", "down", check=0)


def pid_of(node):
    return json.loads(node.cli("daemon", "status", "--json", check=0).stdout)["pid"]


def flags_of(pid):
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    return words[words.index("up") + 1 :]
