"""Rows larger than the memory that the process is limited to, and a square of 10,000 columns that would be, are reduced."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

LIMIT = 60  # megabytes beyond what the process has once everything is imported

SCRIPT = f"""
import json, re, resource, sys
import numpy as np
import trainer.data.decompose, trainer.data.reduced, filelock
from tests.data.stored import Stored
from trainer.data.reduce import Reduce

path, features, components, out = sys.argv[1:]
data = Stored(path=path, features=int(features), reduce=Reduce.pca, components=int(components))
np.linalg.eigh(np.eye(300) + 1)  # what the libraries keep
used = 1024 * int(re.search(r"VmData:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_DATA, (used + ({LIMIT} << 20),) * 2)  # file mappings do not count, everything else does
try:
    np.fromfile(path, "<f4")
    whole = "fits"
except MemoryError:
    whole = "does not fit"
samples = data.open("train")
np.savez(out, components=samples.reduction.components, shares=samples.reduction.shares, rows=samples.flat(0, 100)[0])
print(json.dumps({{"whole": whole, "samples": len(samples)}}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not enforce RLIMIT_DATA")
@pytest.mark.parametrize(("rows", "features", "components"), [(400_000, 50, 3), (1700, 10_000, 2)])
def test_larger_than_memory(tmp_path, rows, features, components):
    random = np.random.default_rng(0)
    path, out = tmp_path / "rows.bin", tmp_path / "found.npz"
    axes = np.linalg.qr(random.normal(size=(features, 3)))[0].T.astype("<f4")
    values = (random.normal(size=(rows, 3)) * [9, 5, 2]).astype("<f4") @ axes
    values += random.normal(scale=0.05 / features**0.5, size=values.shape[1]).astype("<f4")
    values.tofile(path)
    assert path.stat().st_size > LIMIT << 20
    command = [sys.executable, "-c", SCRIPT, str(path), str(features), str(components), str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"whole": "does not fit", "samples": rows}
    found = np.load(out)
    expected = PCA(components, svd_solver="covariance_eigh" if features < 100 else "arpack").fit(values.astype(np.float64))
    np.testing.assert_allclose(found["components"], expected.components_, atol=1e-6)
    np.testing.assert_allclose(found["shares"], expected.explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(found["rows"], expected.transform(values[:100].astype(np.float64)), atol=1e-4)
