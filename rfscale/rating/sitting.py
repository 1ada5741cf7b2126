"""What each rater is asked now. Everything that must last is in the votes; the rest is what stands on the page."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random, SystemRandom
from threading import RLock
from typing import Any

from rfscale.names import CHOICES
from rfscale.rating.pairs import all_pairs, choose
from rfscale.rating.votes import QUESTIONS, RatingError, Showing, Vote, Votes


@dataclass(frozen=True, slots=True)
class Design:
    """What is compared: trials by id, captions, questions by name, the images' setting, and pairs for each rater."""

    trials: tuple[str, ...]
    prompts: tuple[str, ...]
    questions: tuple[str, ...]
    setting: str
    comparisons: int

    @property
    def showings(self) -> int:
        """Image pairs that one rater sees, at most every pair of trials with every prompt."""
        return min(self.comparisons, len(all_pairs(self.trials)) * len(self.prompts))


@dataclass(frozen=True, slots=True)
class _OnPage:
    """A showing with the tokens of its two images, which are new whenever it is put on a page."""

    showing: Showing
    left_token: str
    right_token: str


class Sitting:
    """Asks, keeps answers and takes them back, for several raters at once."""

    def __init__(self, design: Design, votes: Votes, random: Random | None = None) -> None:
        self.design, self.votes = design, votes
        self._random = random or SystemRandom()
        self._lock = RLock()
        self._on_page: dict[str, _OnPage] = {}  # rater -> what they see
        self._images: dict[str, tuple[str, int]] = {}  # token -> trial and prompt number

    def state(self, rater: str) -> dict[str, Any]:
        """What the page of a rater shows: progress and, unless finished, the prompt, one question and two images.

        `last` names the answer that can be taken back.
        """
        with self._lock:
            mine = self._mine(rater)
            total = self.design.showings * len(self.design.questions)
            progress = {"done": len(mine), "total": max(total, len(mine)), "last": _name(mine[-1]) if mine else None}
            asked = self._next(rater, mine)
            if asked is None:
                return {**progress, "finished": True}
            page, question = asked
            return {
                **progress,
                "finished": False,
                "showing": page.showing.showing,
                "prompt": page.showing.prompt,
                "question": question,
                "text": QUESTIONS[question],
                "number": self.design.questions.index(question) + 1,
                "questions": len(self.design.questions),
                "left": f"/image/{page.left_token}",
                "right": f"/image/{page.right_token}",
            }

    def vote(self, rater: str, showing: str, question: str, choice: str) -> dict[str, Any]:
        """Keep an answer to what is asked; one that was kept already changes nothing. Raises RatingError for others."""
        if choice not in CHOICES:
            raise RatingError(f"the choice {choice!r} is not possible; it is one of {', '.join(CHOICES)}")
        with self._lock:
            mine = self._mine(rater)
            if not any(v.showing.showing == showing and v.question == question for v in mine):
                asked = self._next(rater, mine)
                if asked is None or (asked[0].showing.showing, asked[1]) != (showing, question):
                    raise RatingError("this question is not asked any more; reload the page")
                self.votes.add(Vote(asked[0].showing, question, choice))
            return self.state(rater)

    def undo(self, rater: str, showing: str, question: str) -> dict[str, Any]:
        """Take the rater's last answer back and ask that question again; nothing where it is not the one named.

        So a request that is sent twice takes one answer back.
        """
        with self._lock:
            mine = self._mine(rater)
            if mine and _name(mine[-1]) == {"showing": showing, "question": question}:
                self.votes.remove(mine[-1])
                self._show(rater, mine[-1].showing)
            return self.state(rater)

    def image(self, token: str) -> tuple[str, int] | None:
        """Trial and number of the prompt of an image on a page."""
        with self._lock:
            return self._images.get(token)

    def _relevant(self) -> list[Vote]:
        trials, prompts = set(self.design.trials), len(self.design.prompts)
        return [
            vote
            for vote in self.votes.of(self.design.setting)
            if vote.showing.pair <= trials and vote.showing.prompt_number < prompts
        ]

    def _mine(self, rater: str) -> list[Vote]:
        return [vote for vote in self._relevant() if vote.showing.rater == rater]

    def _next(self, rater: str, mine: Sequence[Vote]) -> tuple[_OnPage, str] | None:
        """What stands on the page and its first question without an answer; a new showing where there is none."""
        if page := self._on_page.get(rater):
            if question := self._open_question(page.showing, mine):
                return page, question
            self._leave(rater)
        begun = {vote.showing.showing: vote.showing for vote in mine}
        for showing in begun.values():  # left unfinished when the server was stopped
            if question := self._open_question(showing, mine):
                return self._show(rater, showing), question
        if len(begun) >= self.design.showings:
            return None
        shown = {vote.showing.showing: vote.showing for vote in self._relevant()}
        shown |= {page.showing.showing: page.showing for page in self._on_page.values()}
        chosen = choose(self.design.trials, len(self.design.prompts), rater, list(shown.values()), self._random)
        if chosen is None:
            return None
        number, left, right = chosen
        prompt = self.design.prompts[number]
        showing = Showing(secrets.token_urlsafe(16), rater, self.design.setting, number, prompt, left, right)
        return self._show(rater, showing), self.design.questions[0]

    def _open_question(self, showing: Showing, mine: Sequence[Vote]) -> str | None:
        answered = {vote.question for vote in mine if vote.showing.showing == showing.showing}
        return next((question for question in self.design.questions if question not in answered), None)

    def _show(self, rater: str, showing: Showing) -> _OnPage:
        page = self._on_page.get(rater)
        if page is not None and page.showing.showing == showing.showing:
            return page  # the images stay, so their addresses do
        self._leave(rater)
        page = _OnPage(showing, secrets.token_urlsafe(16), secrets.token_urlsafe(16))
        self._images[page.left_token] = (showing.left, showing.prompt_number)
        self._images[page.right_token] = (showing.right, showing.prompt_number)
        self._on_page[rater] = page
        return page

    def _leave(self, rater: str) -> None:
        if page := self._on_page.pop(rater, None):
            del self._images[page.left_token], self._images[page.right_token]


def _name(vote: Vote) -> dict[str, str]:
    """What tells a vote from all others."""
    return {"showing": vote.showing.showing, "question": vote.question}
