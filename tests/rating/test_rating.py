"""Rating: what is shown to whom, votes that last, images that are the same for all, and a server that tells nothing."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import console_script, environment_in, heed_interrupts
from PIL import Image
from typer.testing import CliRunner, Result

import rfscale
from analysis.preference.strengths import read_votes
from rfscale.cli import app
from rfscale.data import load, load_text_encoder
from rfscale.data.batch import encode
from rfscale.names import CHOICES
from rfscale.rating import images as images_module
from rfscale.rating.images import Drawing, draw_images, save_png
from rfscale.rating.pairs import choose
from rfscale.rating.server import LONGEST_REQUEST, TOKEN_HEADER, RatingServer, kept_key
from rfscale.rating.sitting import Design, Sitting
from rfscale.rating.votes import QUESTIONS, RatingError, Showing, Vote, Votes, questions_of
from rfscale.spec.sweep import Samples, Sweep
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import Store
from rfscale.train.loop import train
from rfscale.train.weights import load_model
from rfscale.validation.samples import generate_images

TRIALS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")
DEFINITION: dict[str, Any] = {
    "name": "pairs",
    "question": "Which is liked?",
    "data": {"name": "shapes", "resolution": 8},
    "model": {"depths": [1], "width_per_depth": 16, "patch": 4},
    "formulations": ["rf", "eps/linear"],
    "training": {"steps": 4, "batch": 4},
    "evaluation": {"images": 8, "points": 2},
    "samples": {"images": 0},
}


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result) -> str:
    """The one sentence of a refusal."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("rfscale: ")


def showing(token: str = "s", rater: str = "ada", number: int = 0, left: str = "a", right: str = "b") -> Showing:
    return Showing(token, rater, "s50-g2.5-ema", number, f"prompt {number}", left, right)


def design(**changes: Any) -> Design:
    given = {
        "trials": TRIALS,
        "prompts": ("a red square", "a blue circle", "two stars"),
        "questions": ("prompt following", "visual quality"),
        "setting": "s50-g2.5-ema",
        "comparisons": 4,
    }
    return Design(**(given | changes))


# --- questions --------------------------------------------------------------------------------------------------------


def test_the_questions_are_the_papers() -> None:
    assert list(QUESTIONS.values()) == [
        "Which image looks more representative of the text shown above and faithfully follows it?",
        "Given the prompt, which image is of higher quality and aesthetically more pleasing?",
        "Which image more accurately shows/displays the text specified in the above description? More accurate "
        "spelling is preferred! Ignore other aspects.",
    ]
    assert questions_of("glyphs") == ("prompt following", "visual quality", "typography")
    assert questions_of("shapes") == questions_of("folder") == ("prompt following", "visual quality")


# --- votes ------------------------------------------------------------------------------------------------------------


def test_a_vote_is_kept_once_and_read_by_the_analysis(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "new" / "votes.sqlite")
    assert votes.add(Vote(showing(), "prompt following", "left"))
    assert not votes.add(Vote(showing(), "prompt following", "right")), "a second answer to the same question"
    assert votes.add(Vote(showing(), "visual quality", "none"))
    assert votes.add(Vote(showing("t", rater="bob", number=1), "visual quality", "right"))
    read = read_votes(votes.path)
    assert read[["rater", "question", "left", "right", "choice", "prompt", "setting", "showing"]].values.tolist() == [
        ["ada", "prompt following", "a", "b", "left", "prompt 0", "s50-g2.5-ema", "s"],
        ["ada", "visual quality", "a", "b", "none", "prompt 0", "s50-g2.5-ema", "s"],
        ["bob", "visual quality", "a", "b", "right", "prompt 1", "s50-g2.5-ema", "t"],
    ]
    assert str(read["time"].dtype).startswith("datetime64")
    votes.remove(Vote(showing(), "visual quality", "none"))
    assert [vote.question for vote in votes.of("s50-g2.5-ema")] == ["prompt following", "visual quality"]
    assert votes.of("s10-g5-ema") == []


KILLED = """
import os, signal, sys
from pathlib import Path
from rfscale.rating.votes import Showing, Vote, Votes
votes = Votes(Path(sys.argv[1]))
for i in range(5):
    votes.add(Vote(Showing(str(i), "ada", "s", i, "p", "a", "b"), "visual quality", "left"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_votes_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(read_votes(path)) == 5
    assert len(Votes(path).of("s")) == 5
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_votes_of_many_threads_are_all_kept(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.sqlite")
    threads = [
        threading.Thread(target=votes.add, args=(Vote(showing(str(i // 2)), "visual quality", "left"),))
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(vote.showing.showing for vote in votes.of("s50-g2.5-ema")) == sorted(map(str, range(10)))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RatingError, match="cannot write the votes to"):
        Votes(tmp_path / "file" / "votes.sqlite")


# --- what is shown next -----------------------------------------------------------------------------------------------


def everything_shown(seed: int, trials: int, prompts: int, raters: int, each: int | None = None) -> list[Showing]:
    random, shown = Random(seed), []
    names = [f"t{i}" for i in range(trials)]
    for rater in range(raters):
        while each is None or sum(s.rater == str(rater) for s in shown) < each:
            chosen = choose(names, prompts, str(rater), shown, random)
            if chosen is None:
                break
            number, left, right = chosen
            shown.append(showing(str(len(shown)), str(rater), number, left, right))
    return shown


def test_a_rater_sees_every_pair_with_every_prompt_once() -> None:
    shown = everything_shown(0, trials=4, prompts=3, raters=2)
    for rater in ("0", "1"):
        seen = [(s.pair, s.prompt_number) for s in shown if s.rater == rater]
        assert len(seen) == len(set(seen)) == 6 * 3


@pytest.mark.parametrize("each", [1, 5, 11])
def test_pairs_prompts_and_sides_are_balanced_at_every_moment(each: int) -> None:
    shown = everything_shown(1, trials=4, prompts=5, raters=3, each=each)
    for upto in range(1, len(shown) + 1):
        by_pair = Counter(s.pair for s in shown[:upto])
        counts = [by_pair[frozenset(pair)] for pair in combinations([f"t{i}" for i in range(4)], 2)]
        assert max(counts) - min(counts) <= 1, "a pair is known better than another"
        for pair in by_pair:
            at_left = Counter(s.left for s in shown[:upto] if s.pair == pair)
            assert abs(2 * max(at_left.values()) - by_pair[pair]) <= 1, "one of a pair is at the left too often"
            prompts = Counter(s.prompt_number for s in shown[:upto] if s.pair == pair)
            assert max(prompts.values()) <= 1 + by_pair[pair] // 5


def test_what_comes_first_and_which_side_is_by_chance() -> None:
    first = Counter(
        (s.left, s.right, s.prompt_number) for seed in range(600) for s in everything_shown(seed, 2, 2, 1, 1)
    )
    assert len(first) == 4
    assert min(first.values()) > 110  # expected 150, standard deviation 10.6
    # The second showing of a pair mirrors the first, so that both sides are equally often at the left.
    two = [everything_shown(seed, 2, 2, 1, 2) for seed in range(50)]
    assert all(a.left == b.right for a, b in two)


# --- a sitting --------------------------------------------------------------------------------------------------------


def answer(sitting: Sitting, rater: str = "ada", choice: str = "left") -> dict[str, Any]:
    state = sitting.state(rater)
    return sitting.vote(rater, state["showing"], state["question"], choice)


def test_a_sitting_from_the_first_question_to_the_end(tmp_path: Path) -> None:
    sitting = Sitting(design(), Votes(tmp_path / "votes.sqlite"))
    seen: list[dict[str, Any]] = []
    state = sitting.state("ada")
    while not state["finished"]:
        assert (state["done"], state["total"]) == (len(seen), 8)
        assert state == sitting.state("ada"), "asking again changes nothing"
        assert sitting.image(state["left"].removeprefix("/image/")) is not None
        seen.append(state)
        state = sitting.vote("ada", state["showing"], state["question"], CHOICES[len(seen) % 3])
    last = {"showing": seen[-1]["showing"], "question": "visual quality"}
    assert state == {"done": 8, "total": 8, "last": last, "finished": True}
    assert [s["question"] for s in seen] == ["prompt following", "visual quality"] * 4
    for one, two in zip(seen[::2], seen[1::2], strict=True):
        assert [one[k] for k in ("showing", "prompt", "left", "right")] == [
            two[k] for k in ("showing", "prompt", "left", "right")
        ]
    tokens = [s[side] for s in seen[::2] for side in ("left", "right")]
    assert len(set(tokens)) == 8, "an image has a new address at every showing"
    assert all(sitting.image(token.removeprefix("/image/")) is None for token in tokens), "and none afterwards"
    kept = sitting.votes.of("s50-g2.5-ema")
    assert [(v.showing.showing, v.question, v.choice) for v in kept] == [
        (s["showing"], s["question"], CHOICES[(i + 1) % 3]) for i, s in enumerate(seen)
    ]


def test_the_images_of_a_page_are_those_of_its_vote(tmp_path: Path) -> None:
    sitting = Sitting(design(), Votes(tmp_path / "votes.sqlite"))
    state = sitting.state("ada")
    left, right = (sitting.image(state[side].removeprefix("/image/")) for side in ("left", "right"))
    answer(sitting)
    (vote,) = sitting.votes.of("s50-g2.5-ema")
    assert (left, right) == (
        (vote.showing.left, vote.showing.prompt_number),
        (vote.showing.right, vote.showing.prompt_number),
    )
    assert vote.showing.prompt == design().prompts[vote.showing.prompt_number] == state["prompt"]


def test_two_sittings_do_not_follow_the_same_order(tmp_path: Path) -> None:
    def sides(number: int) -> tuple[str, ...]:
        sitting = Sitting(design(trials=TRIALS[:2], comparisons=1), Votes(tmp_path / f"{number}.sqlite"))
        answer(sitting)
        return tuple(vote.showing.left for vote in sitting.votes.of("s50-g2.5-ema"))

    assert {sides(number) for number in range(40)} == {(trial,) for trial in TRIALS[:2]}  # by chance: fails 1 in 2^39


def test_a_double_submit_counts_once_and_an_old_question_is_refused(tmp_path: Path) -> None:
    sitting = Sitting(design(), Votes(tmp_path / "votes.sqlite"))
    state = sitting.state("ada")
    after = sitting.vote("ada", state["showing"], state["question"], "left")
    assert sitting.vote("ada", state["showing"], state["question"], "right") == after
    assert [vote.choice for vote in sitting.votes.of("s50-g2.5-ema")] == ["left"]
    for of_showing, question in (("other", state["question"]), (state["showing"], "typography")):
        with pytest.raises(RatingError, match="not asked any more"):
            sitting.vote("ada", of_showing, question, "left")
    with pytest.raises(RatingError, match="not asked any more"):
        sitting.vote("bob", after["showing"], after["question"], "left")
    with pytest.raises(RatingError, match="choice 'both' is not possible"):
        sitting.vote("ada", after["showing"], after["question"], "both")


def test_undo_goes_back_answer_by_answer(tmp_path: Path) -> None:
    sitting = Sitting(design(), Votes(tmp_path / "votes.sqlite"))
    first = sitting.state("ada")
    assert sitting.undo("ada", first["showing"], first["question"]) == first, "nothing to take back"
    assert first["last"] is None
    second = answer(sitting)
    answer(sitting, choice="right")  # the next pair is on the page now
    sitting.state("bob")
    answer(sitting, "bob")
    back = sitting.undo("ada", **sitting.state("ada")["last"])
    assert (back["showing"], back["question"], back["done"]) == (second["showing"], second["question"], 1)
    assert sitting.undo("ada", back["showing"], back["question"]) == back, "sent twice: it is taken back already"
    again = sitting.undo("ada", **back["last"])
    assert (again["showing"], again["question"], again["done"]) == (first["showing"], first["question"], 0)
    assert [vote.showing.rater for vote in sitting.votes.of("s50-g2.5-ema")] == ["bob"]
    assert answer(sitting)["done"] == 1


def test_a_stopped_sitting_goes_on_where_it_was(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.sqlite")
    sitting = Sitting(design(), votes)
    for _ in range(3):
        state = answer(sitting)
    assert state["question"] == "visual quality", "the second question about the second pair is open"
    on_page = [sitting.image(state[side].removeprefix("/image/")) for side in ("left", "right")]
    later = Sitting(design(), Votes(votes.path))
    resumed = later.state("ada")
    assert {k: resumed[k] for k in ("showing", "question", "prompt", "done", "total")} == {
        k: state[k] for k in ("showing", "question", "prompt", "done", "total")
    }
    assert resumed["left"] != state["left"]
    assert [later.image(resumed[side].removeprefix("/image/")) for side in ("left", "right")] == on_page


def test_raters_do_not_disturb_each_other_and_share_the_balance(tmp_path: Path) -> None:
    sitting = Sitting(design(comparisons=3), Votes(tmp_path / "votes.sqlite"))
    for _ in range(6):
        for rater in ("ada", "bob"):
            answer(sitting, rater)
    assert all(sitting.state(rater)["finished"] for rater in ("ada", "bob"))
    by_pair = Counter(vote.showing.pair for vote in sitting.votes.of("s50-g2.5-ema"))
    assert set(by_pair.values()) == {4}


def test_there_is_an_end_where_all_was_seen_and_other_settings_do_not_count(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.sqlite")
    small = design(trials=TRIALS[:2], prompts=("a", "b"), comparisons=100)
    sitting = Sitting(small, votes)
    assert sitting.state("ada")["total"] == 4
    while not sitting.state("ada")["finished"]:
        answer(sitting)
    assert len(votes.of("s50-g2.5-ema")) == 4
    other = Sitting(design(setting="s10-g5-ema"), votes).state("ada")
    assert (other["done"], other["last"]) == (0, None)
    assert Sitting(design(trials=TRIALS[1:]), votes).state("ada")["done"] == 0, "votes on other trials"
    assert Sitting(design(), votes).state("ada")["done"] == 4


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep]:
    """A folder with sweep.yaml, and its two trials finished in the store `runs`."""
    root = tmp_path_factory.mktemp("trained")
    sweep = parse_sweep(DEFINITION)
    (root / "sweep.yaml").write_text(yaml.safe_dump(DEFINITION), encoding="utf-8")
    for trial in sweep.trials:
        train(trial, Store(root / "runs").trial(trial.trial_id), samples=Samples(images=0))
    return root, sweep


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_images_are_those_of_the_trial_from_noise_that_all_trials_share(
    trained: tuple[Path, Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, sweep = trained
    monkeypatch.setattr(images_module, "CHUNK", 3)
    store, captions = Store(root / "runs"), load(sweep.trials[0].data).validation(5).captions
    files = draw_images(sweep.trials, captions, store, tmp_path, Drawing(3, 2.0), lambda drawn, missing: None)
    assert len(files) == len(set(files.values())) == 10
    for trial in sweep.trials:
        condition = encode(load_text_encoder(trial.text), captions)
        model = load_model(trial, store.trial(trial.trial_id))
        expected = generate_images(model, trial, condition, 3, 2.0, seed=0)
        for number in range(5):
            drawn = pixels(files[trial.trial_id, number]).astype(float) / 127.5 - 1
            np.testing.assert_allclose(drawn.transpose(2, 0, 1), expected[number].numpy(), atol=0.51 / 127.5 + 1e-5)


def test_what_was_drawn_is_not_drawn_again(trained: tuple[Path, Sweep], tmp_path: Path) -> None:
    root, sweep = trained
    store, captions = Store(root / "runs"), load(sweep.trials[0].data).validation(20).captions
    told: list[tuple[int, int]] = []

    def draw(prompts: int, drawing: Drawing = Drawing(2, 2.0)) -> dict[tuple[str, int], Path]:
        told.clear()
        return dict(
            draw_images(sweep.trials, captions[:prompts], store, tmp_path, drawing, lambda *now: told.append(now))
        )

    files = draw(18)
    assert (told[0], told[-1]) == ((0, 36), (36, 36))
    before = {path: path.read_bytes() for path in files.values()}
    assert draw(18) == files
    assert told == [(0, 0)]
    lost = list(files.values())[::5]
    for path in lost:
        path.unlink()
    draw(18)
    assert told[-1] == (len(lost), len(lost))
    assert {path: path.read_bytes() for path in files.values()} == before
    assert draw(20).items() > files.items(), "more prompts leave the first as they were"
    assert told[-1] == (4, 4)
    assert not set(draw(18, Drawing(3, 2.0)).values()) & set(files.values())
    assert not set(draw(18, Drawing(2, 1.0)).values()) & set(files.values())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_png_holds_pixels_and_nothing_else(trained: tuple[Path, Sweep], tmp_path: Path) -> None:
    root, sweep = trained
    files = draw_images(
        sweep.trials, ["a red star"], Store(root / "runs"), tmp_path, Drawing(2, 1.0), lambda *now: None
    )
    for path in files.values():
        assert chunks(path.read_bytes()) == [b"IHDR", b"IDAT", b"IEND"]
        assert re.fullmatch(r"[0-9a-f]{32}\.png", path.name)
        assert not any(trial.trial_id in path.name for trial in sweep.trials)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    image = torch.zeros(3, 4, 4)
    image[1, 2, 3] = value
    with pytest.raises(RatingError, match="has pixels that are not finite; lower --guidance, or choose other trials"):
        save_png(image, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def chunks(png: bytes) -> list[bytes]:
    """The types of the chunks of a PNG."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    found, at = [], 8
    while at < len(png):
        found.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return found


# --- the server -------------------------------------------------------------------------------------------------------

Ask = Callable[..., tuple[int, dict[str, str], bytes]]
KEY = "a-key"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[RatingServer, Ask]]:
    """A running server with a made-up design, and a function that sends one request to it."""
    files = {}
    for i, trial in enumerate(TRIALS):
        for number in range(3):
            files[trial, number] = tmp_path / f"{trial}-{number}.png"
            Image.new("RGB", (8, 8), (80 * i, 80 * number, 0)).save(files[trial, number])
    with RatingServer(0) as server:
        server.open(Sitting(design(), Votes(tmp_path / "votes.sqlite")), files, KEY)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()

        def ask(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            given = {"Content-Type": "application/json", TOKEN_HEADER: server.token} if method == "POST" else {}
            given |= {name.replace("_", "-"): value for name, value in headers.items()}
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, {k: v for k, v in given.items() if v})
            response = connection.getresponse()
            answered = response.status, dict(response.getheaders()), response.read()
            connection.close()
            return answered

        yield server, ask
        server.shutdown()
        thread.join()


def test_the_server_asks_and_keeps_answers(served: tuple[RatingServer, Ask]) -> None:
    server, ask = served
    status, _, body = ask("POST", "/state", {"rater": "  Ada   L. "})
    state = json.loads(body)
    assert (status, state["done"], state["finished"]) == (200, 0, False)
    vote = {"rater": "Ada L.", "showing": state["showing"], "question": state["question"], "choice": "left"}
    for _ in range(2):
        second = json.loads(ask("POST", "/vote", vote)[2])
        assert second["done"] == 1
    assert second["last"] == {key: vote[key] for key in ("showing", "question")}
    ask("POST", "/vote", {**vote, **{key: second[key] for key in ("showing", "question")}})
    for _ in range(2):  # a request that is sent again takes no second answer back
        undo = {"rater": "Ada L.", **{key: second[key] for key in ("showing", "question")}}
        assert json.loads(ask("POST", "/undo", undo)[2])["done"] == 1
    state = json.loads(ask("POST", "/undo", {"rater": "Ada L.", **second["last"]})[2])
    assert state["done"] == 0
    assert ask("POST", "/vote", {**vote, "showing": "old"})[0] == 409
    status, headers, image = ask("GET", state["left"])
    assert (status, headers["Content-Type"]) == (200, "image/png")
    trial, number = server.sitting.image(state["left"].removeprefix("/image/")) or ("", 0)
    assert image == server.images[trial, number].read_bytes()
    assert "ada" not in str(server.sitting.votes.of("s50-g2.5-ema"))


def test_the_server_listens_on_loopback_only(served: tuple[RatingServer, Ask]) -> None:
    server, _ = served
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.port}/?key={KEY}"


def test_the_page_and_its_token_are_for_who_has_the_key(served: tuple[RatingServer, Ask], tmp_path: Path) -> None:
    server, ask = served
    for path in ("/", "/?", "/?key=", "/?key=another", f"/?key={KEY}x", f"/?key={KEY}&more", f"/?Key={KEY}"):
        status, headers, body = ask("GET", path)
        assert status == 403, path
        assert server.token not in repr(headers) + body.decode()
        assert KEY not in body.decode()
        assert "with its key" in json.loads(body)["error"]
    status, _, body = ask("GET", f"/?key={KEY}")
    assert (status, server.token in body.decode()) == (200, True)

    path = tmp_path / "key"
    key = kept_key(path)
    assert re.fullmatch(r"[\w-]{22}", key)
    assert kept_key(path) == key, "a page can be reloaded after the server was started again"
    assert path.stat().st_mode & 0o777 == 0o600, "for its owner alone"
    assert kept_key(tmp_path / "another") != key


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/", None, {"Host": "evil.example"}, 421),  # DNS rebinding: another name for 127.0.0.1
        ("GET", "/", None, {"Host": "127.0.0.1:1"}, 421),
        ("POST", "/state", {"rater": "a"}, {"Host": "evil.example"}, 421),
        ("POST", "/state", {"rater": "a"}, {TOKEN_HEADER: ""}, 403),
        ("POST", "/state", {"rater": "a"}, {TOKEN_HEADER: "guess"}, 403),
        ("POST", "/state", {"rater": "a"}, {"Origin": "http://evil.example"}, 403),
        ("POST", "/state", {"rater": "a"}, {"Origin": "null"}, 403),
        ("POST", "/state", {"rater": "a"}, {"Content-Type": "text/plain"}, 415),  # what a foreign form can send
        ("POST", "/state", {"rater": "a" * LONGEST_REQUEST}, {}, 413),
        ("POST", "/state", b"{", {}, 400),
        ("POST", "/state", b"[" * LONGEST_REQUEST, {}, 400),  # nested deeper than Python follows
        ("POST", "/state", b"", {"Content-Length": "9" * 5000}, 400),  # longer than Python reads
        ("POST", "/state", b"", {"Content-Length": "-1"}, 400),
        ("POST", "/state", b"", {"Content-Length": "9" * 50}, 413),
        ("POST", "/state", [1], {}, 400),
        ("POST", "/state", {}, {}, 400),
        ("POST", "/state", {"rater": " "}, {}, 400),
        ("POST", "/state", {"rater": "a\nb\x00"}, {}, 400),
        ("POST", "/state", {"rater": 1}, {}, 400),
        ("POST", "/vote", {"rater": "a"}, {}, 400),
        ("POST", "/undo", {"rater": "a"}, {}, 400),
        ("POST", "/nothing", {"rater": "a"}, {}, 404),
        ("GET", "/image/", None, {}, 404),
        ("GET", "/image/../votes.py", None, {}, 404),
        ("GET", "/votes.py", None, {}, 404),
        ("GET", "/state", None, {}, 404),
        ("PUT", "/", b"", {}, 501),
    ],
)
def test_what_is_not_ours_is_refused(
    served: tuple[RatingServer, Ask], method: str, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    server, ask = served
    assert ask(method, path, body, **headers)[0] == status
    assert server.sitting.votes.of("s50-g2.5-ema") == []


def test_a_disk_that_fails_is_a_sentence_that_names_no_path(
    served: tuple[RatingServer, Ask], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server, ask = served
    state = json.loads(ask("POST", "/state", {"rater": "ada"})[2])
    for path in server.images.values():
        path.unlink()
    server.sitting.votes.path.write_text("this is no database" * 100)
    for path in server.sitting.votes.path.parent.glob("votes.sqlite-*"):
        path.unlink()
    vote = {"rater": "ada", "showing": state["showing"], "question": state["question"], "choice": "left"}
    for answered, reason in (
        (ask("GET", state["left"]), "No such file or directory"),
        (ask("POST", "/vote", vote), "file is not a database"),
    ):
        assert answered[0] == 500
        assert json.loads(answered[2])["error"] == (
            f"the server cannot reach its votes or images ({reason}); see its terminal, then try again"
        )
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) == 2
    assert str(tmp_path) in said, "the person at the terminal needs the path"


def test_the_page_may_load_nothing_from_elsewhere(served: tuple[RatingServer, Ask]) -> None:
    _, ask = served
    status, headers, page = ask("GET", f"/?key={KEY}", Origin="http://evil.example")
    assert status == 200
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Cache-Control"] == "no-store"
    named = re.findall(r'(?:src|href)="([^"]*)"', page.decode())
    assert set(named) == {"/page.css", "/page.js", "data:,"}
    for path in ("/page.css", "/page.js"):
        status, headers, text = ask("GET", path)
        assert status == 200
        assert b"http" not in text
        assert b"url(" not in text


def test_nothing_that_is_sent_tells_the_models_apart(served: tuple[RatingServer, Ask], tmp_path: Path) -> None:
    _, ask = served
    told, image_headers = b"", set()
    state = json.loads(ask("POST", "/state", {"rater": "ada"})[2])
    while not state["finished"]:
        for side in ("left", "right"):
            status, headers, image = ask("GET", state[side])
            assert status == 200
            told += state[side].encode() + repr(headers).encode() + image
            image_headers |= headers.keys()
        assert state.keys() == {
            *("done", "total", "last", "finished", "showing", "prompt", "question", "text", "number"),
            *("questions", "left", "right"),
        }
        vote = {"rater": "ada", "showing": state["showing"], "question": state["question"], "choice": "left"}
        status, headers, body = ask("POST", "/vote", vote)
        told += repr(headers).encode() + body
        state = json.loads(body)
    for path in (f"/?key={KEY}", "/page.css", "/page.js"):
        _, headers, body = ask("GET", path)
        told += repr(headers).encode() + body
    for secret in (*TRIALS, str(tmp_path), "votes.sqlite", "formulation", "depth", ".png"):
        assert secret.encode() not in told, secret
    assert not image_headers & {"ETag", "Last-Modified", "Content-Disposition", "Set-Cookie"}


def test_a_busy_port_is_refused_in_one_sentence(trained: tuple[Path, Sweep], tmp_path: Path) -> None:
    root, _ = trained
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = invoke("rate", root / "sweep.yaml", "--store", root / "runs", "--port", str(port), "--steps", "1")
    assert refused(done) == f"port {port} is in use; choose another with --port, 0 for any free one"
    assert not (root / "runs" / "ratings").exists(), "it is found before anything is drawn"


# --- the command ------------------------------------------------------------------------------------------------------


def test_help() -> None:
    text = invoke("rate", "--help").stdout
    for option in (
        "--store",
        "--port",
        "--depth",
        "--formulations",
        "--prompts",
        "--pairs",
        "--steps",
        "--guidance",
        "--results",
        "--plot",
    ):
        assert re.search(rf"^  {option}\b.*\S", text, flags=re.MULTILINE), option


def test_a_sweep_that_cannot_be_rated_is_refused(trained: tuple[Path, Sweep], tmp_path: Path) -> None:
    root, _ = trained
    path, store = root / "sweep.yaml", root / "runs"
    assert "none.yaml" in refused(invoke("rate", tmp_path / "none.yaml"))
    assert refused(invoke("rate", path, "--store", tmp_path)).startswith(
        "0 of the 2 trials chosen of sweep pairs are finished and a comparison needs two"
    )
    assert refused(invoke("rate", path, "--store", store, "--formulations", "rf")).startswith(
        "1 of the 1 trials chosen"
    )
    assert (
        refused(invoke("rate", path, "--store", store, "--depth", "9"))
        == "sweep pairs has no trial of depth 9; it has 1"
    )
    assert (
        refused(invoke("rate", path, "--store", store, "--formulations", "v/cos"))
        == "sweep pairs has no trial of formulation v/cos; it has rf, eps/linear"
    )
    assert "nothing" in refused(invoke("rate", path, "--store", store, "--formulations", "nothing"))
    assert refused(invoke("rate", path, "--store", store, "--guidance", "inf")) == (
        "--guidance inf is not possible; give a number from 0 to 1,000"
    )
    no_votes = refused(invoke("rate", path, "--store", tmp_path, "--results"))
    assert no_votes.startswith("there are no votes yet (")
    assert not list(tmp_path.iterdir())
    Votes(tmp_path / "ratings" / "pairs" / "votes.sqlite")
    assert refused(invoke("rate", path, "--store", tmp_path, "--results")).startswith("there are no votes in")


def test_trials_of_different_data_are_refused(tmp_path: Path) -> None:
    base = {key: value for key, value in DEFINITION.items() if key != "data"}
    definition = {
        **base,
        "formulations": ["rf"],
        "grids": [{"data": {"name": "shapes", "resolution": r}} for r in (8, 16)],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(definition))
    for trial in parse_sweep(definition).trials:
        train(trial, Store(tmp_path / "runs").trial(trial.trial_id), samples=Samples(images=0))
    sentence = refused(invoke("rate", tmp_path / "sweep.yaml", "--store", tmp_path / "runs"))
    assert sentence.startswith("the trials of sweep pairs were trained on different data")


def test_results_of_one_setting_and_of_the_chosen_trials(trained: tuple[Path, Sweep], tmp_path: Path) -> None:
    root, sweep = trained
    a, b = (trial.trial_id for trial in sweep.trials)
    votes = Votes(tmp_path / "ratings" / "pairs" / "votes.sqlite")
    for i in range(12):
        shown = Showing(str(i), "ada", "s50-g2.5-ema", i, "p", *((a, b) if i % 2 else (b, a)))
        votes.add(Vote(shown, "visual quality", "none" if i < 2 else ("left" if i % 2 else "right")))
    command = ("rate", root / "sweep.yaml", "--store", tmp_path, "--results")
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("pairs, s50-g2.5-ema: 12 votes by 1 rater")
    assert done.stdout.index("rf  ") < done.stdout.index("eps/linear  ")
    (fit,) = json.loads(invoke(*command, "--json").stdout)["fits"]
    assert [row["model"] for row in fit["models"]] == ["rf", "eps/linear"]
    assert (fit["votes"], fit["ties"], fit["models"][0]["win_rate"]) == (12, 2, {"eps/linear": 11 / 12})
    figure = tmp_path / "elo.png"
    assert invoke(*command, "--plot", figure).exit_code == 0
    assert Image.open(figure).size[0] > 600
    assert "there is no folder" in refused(invoke(*command, "--plot", tmp_path / "none" / "elo.png"))
    assert "the last were with --steps 50 --guidance 2.5" in refused(invoke(*command, "--steps", "10"))
    assert refused(invoke(*command, "--formulations", "rf")).startswith("there are no votes between the trials chosen")


def test_ctrl_c_ends_it_and_says_what_there_is(trained: tuple[Path, Sweep], tmp_path: Path) -> None:
    root, _ = trained
    arguments = ("rate", root / "sweep.yaml", "--store", root / "runs", "--port", "0", "--prompts", "2", "--steps", "1")
    process = subprocess.Popen(
        console_script(*arguments), env=environment_in(tmp_path), cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts,
    )  # fmt: skip
    assert process.stdout is not None
    line = next(line for line in process.stdout if "open http" in line)
    assert re.search(r"open http://127\.0\.0\.1:\d+/\?key=[\w-]{22} in a browser", line)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert f"0 votes by 0 raters in {root / 'runs' / 'ratings' / 'pairs' / 'votes.sqlite'}" in out
    assert "--results" in out


def test_the_page_is_installed_with_the_package() -> None:
    definition = (Path(rfscale.__file__).parents[1] / "pyproject.toml").read_text()
    assert '"rating/page.*"' in definition
    there = {path.name for path in (Path(rfscale.__file__).parent / "rating").glob("page.*")}
    assert there == {"page.html", "page.css", "page.js"}
