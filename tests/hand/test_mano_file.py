"""Reading MANO's files: the real form (Python 2 pickle, chumpy, sparse) is read, and nothing in it runs."""

import os
import pickle
import sys
import types

import numpy as np
import pytest
from mano_like import mano_like_hand

from amt.hand.mano_file import load_mano

sparse = pytest.importorskip("scipy.sparse")


@pytest.fixture
def chumpy():
    """Modules that pickle like chumpy's Ch and Select; they are gone again when the file is read."""

    def make(module, name):
        cls = type(name, (), {"__module__": module, "__init__": lambda self, **state: self.__dict__.update(state)})
        sys.modules[module] = types.ModuleType(module)
        setattr(sys.modules[module], name, cls)
        return cls

    names = ("chumpy", "chumpy.ch", "chumpy.reordering")
    sys.modules["chumpy"] = types.ModuleType("chumpy")
    yield make("chumpy.ch", "Ch"), make("chumpy.reordering", "Select")
    for name in names:
        sys.modules.pop(name, None)


def mano_contents(Ch, Select):
    """A hand's arrays stored as MANO's own files store theirs."""
    model = mano_like_hand()
    arrays = {name: np.array(array) for name, array in model.arrays().items()}
    parents = arrays["kintree_table"].copy()
    parents[0, 0] = 2**32 - 1
    shape = Ch(x=np.concatenate((arrays["shapedirs"], np.ones((778, 3, 2))), axis=2), _dirty_vars=set())
    keep = np.arange(778 * 3 * 12).reshape(778, 3, 12)[:, :, :10]
    return {
        **arrays,
        "kintree_table": parents.astype(np.uint32),
        "f": arrays["f"].astype(np.uint32),
        "J_regressor": sparse.csc_matrix(arrays["J_regressor"]),
        "shapedirs": Select(a=shape, idxs=keep.ravel(), preferred_shape=keep.shape),
        "v_template": Ch(x=arrays["v_template"]),
        "bs_style": "lbs",
        "hands_coeffs": np.zeros((3, 45)),
    }


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_file_in_mano_s_form_is_read(tmp_path, chumpy, protocol):
    path = tmp_path / "MANO_RIGHT.pkl"
    data = pickle.dumps(mano_contents(*chumpy), protocol=protocol)
    if protocol == 2:  # the module's old name, as Python 2 wrote it
        data = data.replace(b"scipy.sparse._csc\n", b"scipy.sparse.csc\n").replace(b"numpy._core", b"numpy.core")
    path.write_bytes(data)
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        sys.modules.pop(name)
    model = load_mano(path)
    assert model.side == "right"
    assert model.parents == mano_like_hand().parents
    for name, array in mano_like_hand().arrays().items():
        if name != "kintree_table":
            np.testing.assert_allclose(getattr(model, name), array, atol=1e-12, err_msg=name)


def test_rows_and_columns_of_a_sparse_matrix_are_told_apart(tmp_path):
    for kind in (sparse.csc_matrix, sparse.csr_matrix):
        contents = {**mano_like_hand("left").arrays()}
        contents["J_regressor"] = kind(contents["J_regressor"])
        path = tmp_path / "left.pkl"
        path.write_bytes(pickle.dumps(contents))
        np.testing.assert_allclose(load_mano(path).J_regressor, mano_like_hand("left").J_regressor)


def damaged(change):
    """J_regressor with parts of its sparse form replaced."""
    matrix = sparse.csc_matrix(mano_like_hand().J_regressor)
    state = {"_shape": matrix.shape, "data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    return Stored(state | change)


class Stored:
    """Pickles as a csc_matrix of a given state, without SciPy's checks."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return sparse.csc_matrix, ((1, 1),), self.state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_shape": (10**9, 10**9)}, "a sparse matrix of 1000000000 x 1000000000; at most 1000000 entries"),
        ({"_shape": (16, 10**8)}, "at most 1000000 entries"),
        ({"_shape": (-1, 778)}, "a sparse matrix of -1 x 778"),
        ({"_shape": (16, 777)}, "parts do not fit each other"),
        ({"_shape": (3, 778)}, "an entry outside its shape"),
        ({"indptr": np.array([0, 2**40])}, "parts do not fit each other"),
        ({"data": np.zeros(3)}, "parts do not fit each other"),
        ({"indices": "many"}, "expected an array of numbers"),
    ],
)
def test_a_sparse_matrix_that_asks_for_too_much_or_does_not_fit_is_refused(tmp_path, change, message):
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(pickle.dumps({**mano_like_hand().arrays(), "J_regressor": damaged(change)}))
    with pytest.raises(ValueError, match=rf"MANO_RIGHT\.pkl: J_regressor: .*{message}") as error:
        load_mano(path)
    assert "\n" not in str(error.value)


def test_a_bytearray_holds_what_is_in_the_file_and_not_a_number_of_bytes(tmp_path):
    path = tmp_path / "MANO_RIGHT.pkl"
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        path.write_bytes(pickle.dumps({**mano_like_hand().arrays(), "bs_style": bytearray(b"lbs")}, protocol))
        assert load_mano(path).side == "right"
    path.write_bytes(pickle.dumps({**mano_like_hand().arrays(), "bs_style": Runs(bytearray, 10**15)}, 2))
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: refused: it asks for a bytearray of int"):
        load_mano(path)


def test_an_npz_is_read(tmp_path):
    path = tmp_path / "hand.npz"
    np.savez(path, **mano_like_hand("left").arrays())
    assert np.array_equal(load_mano(path, side="left").v_template, mano_like_hand("left").v_template)


class Runs:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("function", [os.mkdir, eval, exec, getattr, pickle.loads, np.load, np.frombuffer, type])
def test_a_file_that_would_run_code_is_refused(tmp_path, function, protocol):
    made = tmp_path / "made"
    argument = {os.mkdir: str(made), eval: f"__import__('os').mkdir({str(made)!r})"}.get(function, "x")
    path = tmp_path / "MANO_RIGHT.pkl"
    contents = {**mano_like_hand().arrays(), "bs_style": Runs(function, argument)}
    path.write_bytes(pickle.dumps(contents, protocol=protocol))
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: refused: it asks for .*Do not trust this file"):
        load_mano(path)
    assert not made.exists()


def test_dotted_names_do_not_reach_through_what_is_allowed(tmp_path):
    path = tmp_path / "MANO_RIGHT.pkl"
    # PROTO 4, STACK_GLOBAL of "numpy" and "ndarray.__class__": getattr chains must not pass
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.")
    with pytest.raises(ValueError, match="refused: it asks for numpy"):
        load_mano(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"not a pickle", "not a readable pickle"),
        (b"", "not a readable pickle"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"f": np.zeros((1, 3))}), "no v_template"),
    ],
)
def test_what_is_no_mano_file_is_one_clear_error(tmp_path, contents, message):
    path = tmp_path / "MANO_LEFT.pkl"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"MANO_LEFT\.pkl: .*{message}"):
        load_mano(path)


def test_truncated_wrong_or_unnamed_files(tmp_path):
    whole = pickle.dumps(mano_like_hand().arrays())
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: not a readable pickle"):
        load_mano(path)
    path.write_bytes(pickle.dumps({**mano_like_hand().arrays(), "weights": np.array(["a"])}))
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: weights: expected an array of numbers"):
        load_mano(path)
    path.write_bytes(pickle.dumps({**mano_like_hand().arrays(), "weights": np.zeros((3, 16))}))
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: weights: expected shape"):
        load_mano(path)
    unnamed = tmp_path / "hand.pkl"
    unnamed.write_bytes(whole)
    with pytest.raises(ValueError, match="pass side="):
        load_mano(unnamed)
    with pytest.raises(FileNotFoundError, match=r"missing\.pkl"):
        load_mano(tmp_path / "missing.pkl")


def test_a_damaged_npz_and_numbers_that_are_not_finite_are_named(tmp_path):
    path = tmp_path / "MANO_RIGHT.npz"
    np.savez(path, **mano_like_hand().arrays())
    whole = path.read_bytes()
    for content in (b"", b"not an archive", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"MANO_RIGHT\.npz: "):
            load_mano(path)
    arrays = {name: np.array(array) for name, array in mano_like_hand().arrays().items()}
    arrays["v_template"][5, 1] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.npz: v_template: expected finite numbers"):
        load_mano(path)
