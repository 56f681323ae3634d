"""The loss of a training run: all terms, their weights at each step, and what is remembered between steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from amt.hand.autocast import no_autocast
from amt.hand.batch import Batch
from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand
from amt.model.outputs import Prediction
from amt.train.config import LossConfig, LossSchedule
from amt.train.losses.contact import contact_term
from amt.train.losses.hand import Terms, hand_terms, keypoint_terms, smoothness_term
from amt.train.losses.masks import check_float32, mean_of_all, with_fillers
from amt.train.losses.objects import object_terms
from amt.train.losses.physical import PhysicalTerms
from amt.train.losses.running import ContactScores, JointErrors
from amt.train.losses.weights import LearnedVariances, wanted_terms, weights_at


class Loss(NamedTuple):
    """What :class:`TrainingLoss` returns."""

    total: Tensor  # the weighted sum
    terms: dict[str, Tensor]  # each term that has a weight, unweighted and detached, by name
    measures: dict[str, Tensor]  # what else is worth a column of the log; no gradient comes from it


class TrainingLoss(nn.Module):
    """The weighted sum of the terms of :class:`LossConfig`, and each of them by name.

    With several ranks (:mod:`amt.train.ranks`) it is that of their samples together, the same on each of them.
    A term whose weight is 0 over the whole run is not computed. In evaluation mode nothing is remembered. The state dict holds
    the running errors and, with ``config.uncertainty``, the learned log-variances, which are trained with the model.

    Args:
        config: the terms' weights, and how some of them are computed.
        schedule: weights over the steps by term, in place of the fixed ones.
        hand: the right hand that the model poses; AMT's own where it is not given.
    """

    def __init__(self, config: LossConfig, schedule: LossSchedule | None = None, hand: ManoLayer | None = None):
        super().__init__()
        self.config, self.schedule = config, schedule or {}
        self.wanted = wanted_terms(config, self.schedule)
        self.joint_errors = JointErrors()
        self.contact_scores = ContactScores((shipped_hand() if hand is None else hand).num_vertices)
        self.physical = None
        if self.wanted & {"joint_limits", "penetration"}:
            self.physical = PhysicalTerms(ManoLayer(shipped_hand()) if hand is None else hand)
        self.variances = LearnedVariances(self.wanted) if config.uncertainty else None

    def forward(self, prediction: Prediction, batch: Batch, step: int = 0) -> Loss:
        """The loss of one batch.

        Args:
            prediction: the model's answer to ``batch.inputs``, float32.
            batch: ``batch.targets`` in float32; samples whose flags are False do not count, whatever their labels hold.
            step: of the run, for the schedule.

        Raises:
            TypeError: labels or coordinates in a 16-bit type, whose spacing at half a metre is 4 mm.
        """
        check_float32(prediction, batch.targets)
        with no_autocast(batch.targets.joints.device.type):
            terms = {name: term() for name, term in self._terms(prediction, batch).items() if name in self.wanted}
            total = self._weighted(terms, weights_at(step, self.config, self.schedule))
            measures = self._remember(prediction, batch)
        return Loss(total, {name: value.detach() for name, value in terms.items()}, measures)

    def statistics(self) -> list[Tensor]:
        """What a call changes in place; a step that is skipped puts it back."""
        return [*self.joint_errors.buffers(), *self.contact_scores.buffers()]

    def _terms(self, p: Prediction, batch: Batch) -> Terms:
        targets, inputs = with_fillers(batch.targets), batch.inputs
        joint_weights = self.joint_errors.weights() if self.config.adaptive else None
        return {
            **keypoint_terms(p, targets, inputs),
            **hand_terms(p, targets, inputs, joint_weights, self.config.rotation),
            **object_terms(p, targets, inputs),
            "smoothness": lambda: smoothness_term(p, targets, batch.window),
            "contact": lambda: contact_term(p, targets, self.config.contact_form),
            **(self.physical(p, inputs) if self.physical else {}),
            "kl": lambda: mean_of_all(p.hand_latent.kl() + p.object_latent.kl()),
        }

    def _weighted(self, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
        weighted = {name: weights[name] * value for name, value in terms.items()}
        if self.variances is not None:
            weighted = {name: self.variances(name, value) for name, value in weighted.items()}
        return sum(weighted.values())

    def _remember(self, p: Prediction, batch: Batch) -> dict[str, Tensor]:
        if self.training:
            t = batch.targets
            self.joint_errors.update(p.joints, t.joints, t.hand_valid)
            self.contact_scores.update(p.hand_contact, t.hand_contact, t.contact_valid)
        return self.contact_scores.scores()


def compute_loss(prediction: Prediction, batch: Batch, config: LossConfig) -> Loss:
    """The loss of one batch by itself: a :class:`TrainingLoss` that remembers nothing."""
    return TrainingLoss(config).to(prediction.joints.device).eval()(prediction, batch)
