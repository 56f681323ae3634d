"""What the model returns."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from amt.hand.mirror import choose, mirror_points
from amt.hand.tensors import TensorFields, exported
from amt.model.decoders import Contact
from amt.model.keypoints import Keypoints
from amt.model.latent import Gaussian
from amt.model.outline import Outline
from amt.model.pose_search import Evidence, Poses
from amt.model.scene import Scene


@exported
@dataclass(frozen=True)
class Hand(TensorFields):
    """A hand's joints and the mesh that follows them."""

    joints: Tensor  # [B, 21, 3], m
    vertices: Tensor  # [B, V, 3], m

    def mirrored(self, which: Tensor) -> Hand:
        """The mirrored hand, x to -x, where ``which`` [B] (bool) is True."""
        return self.map(lambda points: choose(which, mirror_points(points), points))


@exported
@dataclass(frozen=True)
class Prediction(TensorFields):
    """Hand, object and contact of B images, stage by stage, and the answer as properties.

    Camera frame of the crops: metres, x right, y down, z forward. All float32. P is the number of object points that came
    in, S the number of refinement steps.

    A left hand is predicted as a right one in a mirror, and mirrored back. Its ``pose`` and ``betas`` therefore belong to the
    mirrored right hand model: AMT's own left hand is just that. MANO's own left file has another shape space, in which
    the same betas give a mesh 1 to 2 mm off: :func:`amt.hand.fit.fit_joints` with that file's layer finds its betas.
    """

    keypoints: Keypoints
    object_class: Tensor  # [B, 22], logits read from the image alone, whatever class came in; 0 stands for unknown
    coarse: Scene  # the coarse decoder's, fitted to the keypoints; the hand frames stand on it
    decoded: Scene  # after fusion: MANO's hand of the final parameters, and the final object
    unrefined: Hand  # the decoded hand, each joint moved by its own residual: where the refinement starts
    steps: Tensor  # [B, S, 21, 3], m: the joints after each refinement step
    refined: Hand  # the final hand
    contact: Contact
    hand_latent: Gaussian
    object_latent: Gaussian
    poses: Poses | None = None  # of the object, all that were tried; the best is where the object's decoder starts
    outline: Outline | None = None  # of the object, how far it reaches in the crop
    evidence: Evidence | None = None  # in training: by what poses are scored
    joint_visible: Tensor | None = None  # [B, 21], logits: nothing hides the joint
    joint_scale: Tensor | None = (
        None  # [B, 21], m: of a Laplace distribution, from the wrist; the wrist's in the camera's frame
    )

    @property
    def joints(self) -> Tensor:
        """[B, 21, 3], m: the answer, the last of ``steps``."""
        return self.refined.joints

    @property
    def vertices(self) -> Tensor:
        """[B, V, 3], m: the answer's mesh. It follows ``joints``; no MANO parameters give exactly this mesh."""
        return self.refined.vertices

    @property
    def pose(self) -> Tensor:
        """[B, 16, 3, 3]: MANO's rotations of ``decoded``, the first global, the others relative to their parents."""
        return self.decoded.pose

    @property
    def betas(self) -> Tensor:
        """[B, 10]: MANO's shape of ``decoded``."""
        return self.decoded.betas

    @property
    def translation(self) -> Tensor:
        """[B, 3], m: MANO's translation of ``decoded``.

        With ``pose`` and ``betas`` it gives ``decoded.joints`` and ``decoded.vertices``, before each joint moved by itself.
        :func:`amt.hand.fit.fit_joints` gives the parameters nearest to ``joints``.
        """
        return self.decoded.translation

    @property
    def object_rotation(self) -> Tensor:
        """[B, 3, 3], object to camera."""
        return self.decoded.object_rotation

    @property
    def object_translation(self) -> Tensor:
        """[B, 3], m."""
        return self.decoded.object_translation

    @property
    def hand_contact(self) -> Tensor:
        """[B, V], logits: the vertex touches the object."""
        return self.contact.hand

    @property
    def object_contact(self) -> Tensor:
        """[B, P], logits: the object point touches the hand."""
        return self.contact.object

    def mirrored(self, which: Tensor) -> Prediction:
        """The prediction of the mirrored scene, x to -x, where ``which`` [B] (bool) is True."""
        return replace(
            self,
            keypoints=self.keypoints.mirrored(which),
            coarse=self.coarse.mirrored(which),
            decoded=self.decoded.mirrored(which),
            unrefined=self.unrefined.mirrored(which),
            steps=choose(which, mirror_points(self.steps), self.steps),
            refined=self.refined.mirrored(which),
            poses=None if self.poses is None else self.poses.mirrored(which),
            outline=None if self.outline is None else self.outline.mirrored(which),
            evidence=None if self.evidence is None else self.evidence.mirrored(which),
        )
