"""The loop that fits a bank of prompts: one pass over the frozen backbone a step, any kill survived."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from softprompt.backbones.compiling import compiled, is_worth_compiling
from softprompt.errors import TrainingError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import Meter, meter, say
from softprompt.training.bank import Share, gradients
from softprompt.training.budget import parse
from softprompt.training.checkpoints import Checkpoint
from softprompt.training.interruption import interruption
from softprompt.training.learner import DONE, Fit, Learner, look
from softprompt.training.lesson import Lesson
from softprompt.training.memory import Memory
from softprompt.training.parallel import Learned, World
from softprompt.training.race import Race
from softprompt.training.runs import RunFolder
from softprompt.training.scaling import LossScale
from softprompt.training.selection import Seen


class Trainer:
    """Fits the prompts of a bank, or lets them race until one is left.

    The same lessons, machine, thread count and dtype give the same bytes, in one go or killed and resumed.

    Args:
        model: the frozen backbone.
        lessons: what each prompt learns; at least one, their names all different.
        run: where measurements and checkpoints go.
        race: who goes on at which step; without rungs all do.
    """

    def __init__(
        self, model: PromptedModel, lessons: Sequence[Lesson], run: RunFolder, race: Race | None = None
    ) -> None:
        self._model, self._run = model, run
        self._race = race or Race()
        self.learners = [Learner(model, lesson) for lesson in lessons]
        config = lessons[0].config
        self._config = config
        self._world = World.here(lockstep=model.backbone.sharded)
        self._scale = LossScale.for_dtype(model.backbone.dtype)
        self._checkpoint_every = config.checkpoint_every
        self._steps = max(lesson.config.length for lesson in lessons)
        self._seconds = 0.0
        self._told = False

    @property
    def step(self) -> int:
        """Steps done."""
        return max(learner.state.step for learner in self.learners)

    def fit(self, *, resume: bool = False) -> list[Fit]:
        """Train until every prompt has done its steps, or stopped improving, or left the race.

        Args:
            resume: go on from the run folder's checkpoint.

        Returns:
            What each prompt ends with, in the order of the lessons.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came; the state has been saved.
            TrainingError: the checkpoint is unreadable, or the very first steps gave no finite loss.
        """
        try:
            return self._fit(resume=resume)
        finally:
            self._run.release()

    def _fit(self, *, resume: bool) -> list[Fit]:
        config, world = self._config, self._world
        self._memory = Memory(self._model.backbone, config, self._run.plan, world, resume=resume)
        if resume:
            self._restore()
        elif world.size > 1:
            self._start_alike()
        with interruption() as asked, self._compiled(), meter("training", self._steps) as progress:
            progress.advance(self.step)
            while any(learner.active for learner in self.learners):
                began = time.monotonic()
                self._advance(progress)
                self._seconds += time.monotonic() - began
                done = not any(learner.active for learner in self.learners)
                stop = world.any(asked.asked)
                if done or stop or self.step % self._checkpoint_every == 0:
                    self._save()
                if stop:
                    raise KeyboardInterrupt
        return [learner.fit(self._seconds) for learner in self.learners]

    @contextmanager
    def _compiled(self) -> Iterator[None]:
        """Compile the layers if that is asked for, or pays; by the first step's rows, in a run that goes on too."""
        backbone, held, began = self._model.backbone, self._memory.at(0), time.monotonic()
        asked = self._config.compile_layers
        if asked is None:  # layers that are run again in the backward pass are not compiled, nor do minutes pay for it
            timed = self._config.budget is not None and parse(self._config.budget).unit == "seconds"
            asked = not held.layers and not timed and is_worth_compiling(backbone, self._tokens())
        if not asked:
            yield
            return
        with compiled(backbone, lambda: gradients(self._model, [each.share(0) for each in self.learners], held.tokens)):
            self._seconds += time.monotonic() - began
            yield

    def _tokens(self) -> int:
        """Tokens to learn from in all, about: each prompt's first step, as often as it is to have steps at first.

        Of a race those that leave are counted for as long as they are in it. A run that has gone on longer by the time
        it is resumed is computed as it was.
        """
        each = [learner.config.length * sum(item.length for _, item in learner.batch(0)) for learner in self.learners]
        names = {learner.lesson.raced for learner in self.learners}
        return round(sum(each) * self._race.share(len(names), self._steps))

    def _advance(self, progress: Meter) -> None:
        """Do one step of every active prompt, and what is due after it."""
        began = time.perf_counter()
        active = [learner for learner in self.learners if learner.active]
        shares, learned = self._gradients(active)
        records = [one.learn(share, each) for one, share, each in zip(active, shares, learned, strict=True)]
        seconds = time.perf_counter() - began
        rows, text = sum(len(s.rows) for s in shares), sum(len(row.ids) for s in shares for row in s.rows)
        rates = {"examples_per_second": rows / seconds, "tokens_per_second": text / seconds}
        for learner, record in zip(active, records, strict=True):
            if record is None:
                self._give_up(learner)
            else:
                self._log(learner, {"event": "step", **record, **rates})
                self._watch(learner, record["token_gradient_norms"])
                self._after_step(learner)
        loss = min((record["loss"] for record in records if record), default=float("nan"))
        progress.advance(1, f"loss {loss:.3f}, {rates['examples_per_second']:.0f} examples/s")
        self._hold_race()
        progress.reach(max(learner.state.until for learner in self.learners))

    def _gradients(self, active: Sequence[Learner]) -> tuple[list[Share], Sequence[Learned]]:
        """What everyone learns from in this step and what it teaches: within memory, scaled, summed over processes."""
        shares: list[Share] = []

        def passes(tokens: int) -> list[Learned]:
            shares[:] = [learner.share() for learner in active]
            return gradients(self._model, shares, tokens, self._world, self._scale.value)

        learned = self._scale.run(lambda: self._world.total(self._memory.within(self.step, passes)))
        if self._world.size > 1 and not self._told:
            self._tell_crossing(self._world.crossing(learned))
        return shares, learned

    def _after_step(self, learner: Learner) -> None:
        """Validate where it is due, and note why a prompt stops, if there is a reason."""
        state, config = learner.state, learner.config
        if learner.looks:
            learner.see(self._world_sees(learner))
            self._log(learner, {"event": "validation", **state.last, "best_step": state.best_step})
            if state.waited >= config.patience and not state.extended:
                state.stopped = f"{config.patience} validations were worse than the best for sure"
        if state.step == state.until and not state.stopped:
            if learner.goes_on():
                say(f"{self._named(learner)}validation still improves: training goes on to step {state.until}")
            else:
                state.stopped = DONE

    def _hold_race(self) -> None:
        """At a rung, score everyone still racing on the same rows; those who fall behind stop."""
        rung = self._race.rung(self.step)
        racing = [learner for learner in self.learners if learner.active]
        names = [learner.lesson.raced for learner in racing]
        over = rung is not None and self._race.ends and rung is self._race.rungs[-1]
        if rung is None or not racing or (len(set(names)) <= rung.keep and not over):
            return
        seen = [self._world_sees(learner, rung.rows) for learner in racing]
        kept = self._race.judge(rung, names, seen, default=self.learners[0].lesson.raced)
        for name, learner, each in zip(names, racing, seen, strict=True):
            if name not in kept or over:
                learner.state.stopped = f"left the race at step {rung.step}"
            self._log(learner, {"event": "rung", **each.figures, "goes_on": name in kept})

    def _world_sees(self, learner: Learner, rows: int | None = None) -> Seen:
        """Look at validation rows; what the first process sees counts, so that all of them decide alike."""
        seen = look(self._model, learner, rows)
        if self._world.size == 1:
            return seen
        figures = torch.tensor(list(seen.figures.values()), dtype=torch.float64)
        same = self._world.spread({"terms": seen.terms, "figures": figures})
        values = dict(zip(seen.figures, same["figures"].tolist(), strict=True))
        return replace(seen, terms=same["terms"], figures=values)

    def _start_alike(self) -> None:
        """Begin where the first process begins, should another machine have rounded otherwise."""
        for learner in self.learners:
            tensors, state = learner.saved()
            learner.restore(self._world.spread(tensors), state)

    def _tell_crossing(self, size: int) -> None:
        count, self._told = self._world.size, True
        say(f"{count} processes learn together; each sends {size / 1000:.1f} kB a step")
        self._run.log({"event": "processes", "step": self.step, "processes": count, "bytes_a_step": size})

    def _watch(self, learner: Learner, norms: list[float]) -> None:
        for warning in learner.state.watch.see(norms):
            say(f"warning: {self._named(learner)}{warning}")
            self._log(learner, {"event": "warning", "text": warning})

    def _give_up(self, learner: Learner) -> None:
        """The loss or the gradient is no number: keep the best, if there is one."""
        state, step = learner.state, learner.state.step + 1
        self._run.log(
            {"event": "warning", "step": step, **self._tag(learner), "text": "loss or gradient is not finite"}
        )
        others = any(other.active for other in self.learners if other is not learner)
        if not state.best and not others:
            raise TrainingError(
                f"the loss or its gradient is not finite at step {step}, before any validation; lower the learning "
                f"rate (it is {learner.config.rate} times the embeddings' RMS), or train in fp32"
            )
        kept = f"the best so far (step {state.best_step}) is kept" if state.best else "it leaves the bank"
        say(f"warning: {self._named(learner)}the loss is not finite at step {step}; {kept}")
        state.finite, state.stopped = False, f"the loss was not finite at step {step}"
        for other in self.learners:  # folds are judged together, so that a candidate leaves with all of them
            if other.active and other.lesson.raced == learner.lesson.raced:
                other.state.stopped = f"another fold of it was not finite at step {step}"

    def _log(self, learner: Learner, event: Mapping[str, Any]) -> None:
        self._run.log({"event": event["event"], "step": learner.state.step, **self._tag(learner), **event})

    def _tag(self, learner: Learner) -> dict[str, str]:
        """Which prompt of the bank an event speaks of; nothing where there is but one."""
        return {"prompt": learner.lesson.name} if len(self.learners) > 1 else {}

    def _named(self, learner: Learner) -> str:
        return f"{learner.lesson.name}: " if len(self.learners) > 1 else ""

    def _save(self) -> None:
        if not self._world.first:
            return
        tensors: dict[str, Tensor] = {}
        states = []
        for number, learner in enumerate(self.learners):
            own, state = learner.saved()
            tensors |= {f"{number}/{name}": tensor for name, tensor in own.items()}
            states.append(state)
        plain = {"learners": states, "race": self._race.table, "seconds": self._seconds}
        plain["scale"] = asdict(self._scale)
        Checkpoint(self.step, tensors, plain).save(self._run.checkpoint)

    def _restore(self) -> None:
        found = Checkpoint.load(self._run.checkpoint)
        for number, (learner, state) in enumerate(zip(self.learners, found.state["learners"], strict=True)):
            mark = f"{number}/"
            own = {name.removeprefix(mark): t for name, t in found.tensors.items() if name.startswith(mark)}
            learner.restore(own, state)
        self._race.table[:] = found.state["race"]
        self._seconds = found.state["seconds"]
        self._scale = LossScale(**found.state["scale"])
        self._run.forget_after(found.step)
        say(f"going on from step {found.step}")


def thread_count() -> int:
    """Return how many threads compute; part of what decides a prompt's bytes."""
    return torch.get_num_threads()
