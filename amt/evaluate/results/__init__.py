"""Result files: what other evaluators read, written of a checkpoint, and anybody's scored as its official evaluator would.

| file | form | scored by |
| --- | --- | --- |
| `hand_pose.py` | the hand-pose text file of DexYCB's toolkit | protocol T: MPJPE and AUC, three alignments |
| `bop.py` | BOP's csv of object poses | average recall of VSD, MSSD, MSPD, all objects and grasped ones |
| `hand_mesh.py` | pred.json of FreiHAND and of HO-3D | joints, meshes, F-scores |

A file that cannot be what it says (unit, joint order, frames, protocol) is refused in one line.
"""

from amt.evaluate.results.score import score_file
from amt.evaluate.results.write import ResultWriter

__all__ = ["ResultWriter", "score_file"]
