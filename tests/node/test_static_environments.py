"""What a container gets of an environment that needs no shell: programs, variables, and the plugin's own marks."""

from __future__ import annotations

from nri_flox import __version__
from nri_flox.demo import render
from nri_flox.demo.node import SHELL, Node
from tests.node.sample import publish, unused_name

IMAGE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_an_image_that_holds_nothing_runs_a_command_of_the_environment(node: Node) -> None:
    environment = publish(node, vars={"GREETING": "hello"})
    said = node.pod(environment=environment.reference).run(["sh", "-c", 'echo "$GREETING from $0"'])
    assert (said.stdout, said.stderr, said.exit_code) == ("hello from sh\n", "", 0)


def test_on_an_image_the_environment_comes_first_and_the_image_is_still_there(node: Node) -> None:
    greet = render.Package("greet", {"bin/ls": render.Link("../../bin/true"), "bin/greet": render.Executable("")})
    environment = publish(node, packages=[greet])
    said = node.pod(environment=environment.reference).run(
        ["sh", "-c", "which sh greet vi; echo $IMAGE; cat /etc/group"], image=SHELL
    )
    assert said.stdout.splitlines() == [
        f"{environment.bin}/sh",
        f"{environment.bin}/greet",
        "/bin/vi",
        "busybox",
        "root:x:0:",
        "app:x:1000:",
    ]


def test_exec_gets_the_environment_too(node: Node) -> None:
    environment = publish(node, vars={"GREETING": "hello"})
    container = node.pod(environment=environment.reference).container(["sleep", "1000"], image=SHELL).start()
    said = container.exec(["sh", "-c", "which sh; echo $GREETING $FLOX_ENV; exit 3"])
    assert said.stdout == f"{environment.bin}/sh\nhello {environment.path}\n"
    assert said.exit_code == 3


def test_path_is_the_environments_directories_and_then_the_containers_own(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference)
    assert pod.container(["true"], "image", image=SHELL).env["PATH"] == f"{environment.bin}:{IMAGE_PATH}"
    own = pod.container(["true"], "own", image=SHELL, env={"PATH": "/opt/x:/bin"})
    assert own.env["PATH"] == f"{environment.bin}:/opt/x:/bin"


def test_path_ends_with_the_usual_default_where_the_container_has_none(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference)
    assert pod.container(["true"]).env["PATH"] == f"{environment.bin}:{IMAGE_PATH}"


def test_an_older_environment_brings_its_sbin(node: Node) -> None:
    environment = publish(node, flox="1.9")
    container = node.pod(environment=environment.reference).container(["true"])
    assert container.env["PATH"] == f"{environment.bin}:{environment.path}/sbin:{IMAGE_PATH}"


def test_manifest_variables_overwrite_those_of_pod_and_image(node: Node) -> None:
    environment = publish(node, vars={"IMAGE": "mine", "LEVEL": "debug"})
    container = node.pod(environment=environment.reference).container(
        ["true"], image=SHELL, env={"LEVEL": "info", "KEPT": "1"}
    )
    assert (container.env["IMAGE"], container.env["LEVEL"], container.env["KEPT"]) == ("mine", "debug", "1")
    names = [entry.split("=")[0] for entry in container.spec["process"]["env"]]
    assert len(names) == len(set(names)), "no variable comes twice"


def test_manifest_variables_may_use_those_of_the_container(node: Node) -> None:
    variables = {"DATA": "$ROOT/data", "CACHE": "${XDG:-/var/cache}/x", "LOUD": "${DEBUG:+-v}", "TWICE": "$DATA:$DATA"}
    environment = publish(node, vars=variables)
    env = node.pod(environment=environment.reference).container(["true"], env={"ROOT": "/srv", "DEBUG": "1"}).env
    assert {name: env[name] for name in variables} == {
        "DATA": "/srv/data",
        "CACHE": "/var/cache/x",
        "LOUD": "-v",
        "TWICE": "/srv/data:/srv/data",
    }


def test_the_project_is_the_working_directory(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference)
    script = ["sh", "-c", "readlink -f $FLOX_ENV_PROJECT; echo > $FLOX_ENV_PROJECT/file; ls"]
    assert pod.run(script, "given", image=SHELL, working_dir="/tmp").stdout == "/tmp\nfile\n"
    assert pod.run(["sh", "-c", "readlink -f $FLOX_ENV_PROJECT"], "by-default").stdout == "/\n"


def test_the_cache_is_the_containers_own_and_its_user_may_write_it(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference)
    script = ["sh", "-c", "cd $FLOX_ENV_CACHE && mkdir sub && echo > run && ls"]
    for name in ("one", "two"):
        said = pod.run(script, name, run_as_user=1000, read_only_root=True)
        assert (said.stdout, said.stderr) == ("run\nsub\n", "")


def test_annotations_of_the_container_say_what_was_done(node: Node) -> None:
    environment = publish(node, f"{unused_name()}:7")
    live = environment.reference.removesuffix(":7")
    annotations = node.pod(environment=live).container(["true"]).annotations
    assert annotations["flox.dev/resolved-environment"] == f"{live}:7"
    assert annotations["flox.dev/store-path"] == str(environment.path)
    assert annotations["flox.dev/plugin-version"] == __version__


def test_an_answer_longer_than_the_runtimes_buffer_arrives_whole(node: Node) -> None:
    # The runtime reads frames into 4096 bytes, and drops a plugin whose frame doesn't fit.
    variables = {f"LONG_{number}": f"{number:0500}" for number in range(100)}
    environment = publish(node, vars=variables)
    container = node.pod(environment=environment.reference).container(["sh", "-c", "echo $LONG_99"])
    assert variables.items() <= container.env.items()
    assert container.finish().stdout == f"{99:0500}\n"


def test_containers_of_one_pod_may_have_environments_of_their_own(node: Node) -> None:
    ours, theirs = publish(node, vars={"WHO": "ours"}), publish(node, vars={"WHO": "theirs"})
    pod = node.pod(environment=ours.reference, annotations={"flox.dev/environment.worker": theirs.reference})
    assert pod.container(["true"], "main").env["WHO"] == "ours"
    assert pod.container(["true"], "worker").env["WHO"] == "theirs"


def test_an_environment_may_be_for_one_container_alone(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(annotations={"flox.dev/environment.worker": environment.reference})
    assert pod.container(["true"], "worker").annotations["flox.dev/store-path"] == str(environment.path)
    assert "flox.dev/store-path" not in pod.container(["true"], "main", image=SHELL).annotations


def test_a_pinned_generation_stays_when_the_environment_moves_on(node: Node) -> None:
    name = unused_name()
    first = publish(node, f"{name}:1", vars={"GENERATION": "first"})
    second = publish(node, f"{name}:2", vars={"GENERATION": "second"})
    annotations = node.pod(environment=first.reference).container(["true"]).annotations
    assert annotations["flox.dev/resolved-environment"] == f"{name}:1"
    assert annotations["flox.dev/store-path"] == str(first.path)
    assert node.pod(environment=name).container(["true"]).annotations["flox.dev/store-path"] == str(second.path)


def test_a_pod_without_metrics_tells_its_containers(node: Node) -> None:
    environment = publish(node)
    pod = node.pod(environment=environment.reference, annotations={"flox.dev/disable-metrics": "True"})
    assert pod.container(["true"]).env["FLOX_DISABLE_METRICS"] == "1"
