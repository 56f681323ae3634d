"""Robots' hands that follow a person's: models, inverse kinematics, figures. Needs the extra ``robot``.

``retarget(load_hand("shadow"), joints)`` is a pure function of joints [T, 21, 3]; :class:`Retargeter` takes them one by one.
"""

from amt.robot.extra import RobotError, check_extra
from amt.robot.figures import Figures, figures
from amt.robot.models import RobotHand, load_hand
from amt.robot.solve import HandMotion, Retargeter, retarget

__all__ = [
    "Figures",
    "HandMotion",
    "Retargeter",
    "RobotError",
    "RobotHand",
    "check_extra",
    "figures",
    "load_hand",
    "retarget",
]
