"""The command `protonorm thomson`: points that repel each other, and their picture."""

import argparse
import math
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy.spatial import ConvexHull

from protonorm_jax import keys, report, thomson
from protonorm_jax.command.console import Console
from protonorm_jax.command.paths import directory
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices
from protonorm_jax.running.directory import check_free
from protonorm_jax.running.files import replacing

POINTS = "points.npz"
PICTURE = "points.png"
_SECONDS_BETWEEN_LINES = 5.0
_ELEVATION, _AZIMUTH = 18.0, 33.0  # Degrees, of the eye that looks at the sphere.
_FLAT = 1 - 1e-6  # Cosine between the normals of two triangles of one face.
_POINT_COLOR = np.array([0.75, 0.13, 0.13])
_EDGE_COLOR = np.array([0.15, 0.30, 0.55])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command, `--debug` apart."""
    parser.add_argument(
        "--num-points", type=int, required=True, metavar="INT", help="how many points"
    )
    parser.add_argument("--dim", type=int, default=3, metavar="INT", help="of the space (3)")
    parser.add_argument(
        "--exponent",
        type=float,
        default=1.0,
        metavar="FLOAT",
        help="s of the energy, the sum of d^-s over pairs; 0: of -log d (1, the Thomson problem)",
    )
    parser.add_argument(
        "--restarts", type=int, default=64, metavar="INT", help="descents to try (64)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of the starts (0)")
    parser.add_argument(
        "--out",
        type=directory,
        metavar="DIR",
        help="new directory for points and picture (runs/thomson-N-DIM)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the results in --out")


def command(parsed: argparse.Namespace) -> int:
    """Searches, prints what was found and writes it; returns the exit code.

    Raises:
      UsageError: a flag is out of range, or the directory is taken or cannot be written.
    """
    _check(parsed)
    devices.check_settings()
    folder = Path(parsed.out or f"runs/thomson-{parsed.num_points}-{parsed.dim}")
    try:
        check_free(
            folder, overwrite=parsed.overwrite, is_ours=lambda path: (path / POINTS).exists()
        )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out must be writable, got {error}") from error
    devices.cache_programs()

    console = Console()
    console.say(
        f"{parsed.num_points} points in {parsed.dim} dimensions: {parsed.restarts} descents and a "
        "polish of the best, after compiling ..."
    )
    start = time.perf_counter()
    result = thomson.minimize(
        keys.root(parsed.seed),
        num_points=parsed.num_points,
        dim=parsed.dim,
        exponent=parsed.exponent,
        restarts=parsed.restarts,
        tell=_Teller(console),
    )
    seconds = time.perf_counter() - start
    if not math.isfinite(result.energy + result.residual):
        raise UsageError(
            f"--exponent must be low enough for {parsed.num_points} points to have energies that "
            f"floats can hold, got {parsed.exponent:g}"
        )

    try:
        with replacing(folder / POINTS) as file:
            np.savez(
                file,
                points=result.points,
                energy=result.energy,
                num_points=parsed.num_points,
                dim=parsed.dim,
                exponent=parsed.exponent,
                seed=parsed.seed,
            )
        with replacing(folder / PICTURE) as file:
            draw(result.points, f"energy {result.energy:.9f}", file)
    except OSError as error:
        raise UsageError(f"--out must be writable, got {error}") from error

    for name, text in _lines(parsed, result).items():
        console.say(f"{name:<16}{text}")
    console.say(f"{'time':<16}{seconds:.1f} s, compilation included")
    console.say(f"Results are in {folder}")
    return 0


class _Teller:
    """Says now and then how far a search has come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int, steps: int) -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        self._console.say(
            f"{what} {done}/{total} done, {steps} steps of the next, {now - self._began:.0f} s"
        )


def _check(parsed: argparse.Namespace) -> None:
    for name, least in (("num-points", 2), ("dim", 2), ("restarts", 1)):
        value = getattr(parsed, name.replace("-", "_"))
        if value < least:
            raise UsageError(f"--{name} must be >= {least}, got {value}")
    if not (math.isfinite(parsed.exponent) and parsed.exponent >= 0):
        raise UsageError(f"--exponent must be finite and >= 0, got {parsed.exponent:g}")
    if not 0 <= parsed.seed < 2**32:
        raise UsageError(f"--seed must be in [0, {2**32 - 1}], got {parsed.seed}")


def _lines(parsed: argparse.Namespace, result: thomson.MinimizeResult) -> dict[str, str]:
    """What the search has found, by name."""
    angles = report.pairwise_angles(result.points)
    lines = {"energy": f"{result.energy:.9f}"}
    if parsed.dim == 3 and parsed.exponent == 1:
        known = thomson.best_known(parsed.num_points)
        if known is None:
            lines["best known"] = f"none in the table for {parsed.num_points} points"
        else:
            lines["best known"] = f"{known:.9f}, relative excess {result.energy / known - 1:+.1e}"
    if not result.converged:
        lines["not converged"] = f"relative force {result.residual:.1e} along the sphere is left"
    lines["smallest angle"] = f"{np.nanmin(angles):.4f} degrees"
    lines["mean angle"] = f"{np.nanmean(angles):.4f} degrees"
    return lines


def draw(points: np.ndarray, caption: str, file: BinaryIO) -> None:
    """Draws the points on the circle or the sphere; above three dimensions, their angles.

    Args:
      points: `[N, D]` unit vectors, at least two.
      caption: what to say of them.
      file: receives a PNG.
    """
    num_points, dim = points.shape
    with report.drawing(file, figsize=(6, 6) if dim <= 3 else (8, 5)) as figure:
        if dim == 2:
            _draw_circle(figure.add_subplot(), points)
        elif dim == 3:
            import mpl_toolkits.mplot3d  # noqa: F401 (brings the projection)

            _draw_sphere(figure.add_subplot(projection="3d"), points)
        else:
            _draw_angles(figure.add_subplot(), points)
        smallest = np.nanmin(report.pairwise_angles(points))
        figure.suptitle(
            f"{num_points} points in {dim} dimensions\n{caption}, smallest angle {smallest:.2f}°"
        )


def _draw_circle(axes: Any, points: np.ndarray) -> None:
    """The circle and the polygon of the points."""
    from matplotlib.collections import LineCollection

    turn = np.linspace(0, 2 * np.pi, 361)
    axes.plot(np.cos(turn), np.sin(turn), color="grey", linewidth=0.8)
    around = points[np.argsort(np.arctan2(points[:, 1], points[:, 0]))]
    sides = np.stack([around, np.roll(around, -1, axis=0)], axis=1)
    axes.add_collection(LineCollection(list(sides), colors=_EDGE_COLOR, linewidths=1.2))
    axes.scatter(*points.T, s=_marker_size(len(points)), color=_POINT_COLOR, zorder=3)
    axes.set_aspect("equal")
    axes.axis("off")


def _draw_sphere(axes: Any, points: np.ndarray) -> None:
    """The sphere with one point on top and the edges of the convex hull; the far side is faint."""
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    elevation, azimuth = np.radians([_ELEVATION, _AZIMUTH])
    eye = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    points = points @ _rotation_to_top(points[0]).T
    segments = points[hull_edges(points)]
    near_points = points @ eye > -1e-9
    near_segments = segments.mean(axis=1) @ eye > -1e-9

    _draw_globe(axes, eye)
    for near, fade in ((False, 0.7), (True, 0.0)):
        edges, ends = segments[near_segments == near], points[near_points == near]
        if len(edges):  # matplotlib cannot do with none.
            colors = fade + (1 - fade) * _EDGE_COLOR
            lines = Line3DCollection(edges, colors=colors, linewidths=1.2, zorder=2 + near)
            axes.add_collection3d(lines)
        axes.scatter(
            *ends.T,
            s=_marker_size(len(points)),
            color=fade + (1 - fade) * _POINT_COLOR,
            depthshade=False,
            linewidths=0,
            zorder=2.5 + near,
        )
    axes.computed_zorder = False
    axes.set_proj_type("ortho")
    axes.view_init(elev=_ELEVATION, azim=_AZIMUTH)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    axes.set_box_aspect((1, 1, 1), zoom=1.5)
    axes.set_axis_off()


def _draw_globe(axes: Any, eye: np.ndarray) -> None:
    """Faint circles of latitude and longitude, and the outline."""
    east, north = np.mgrid[0 : 2 * np.pi : 25j, -np.pi / 2 : np.pi / 2 : 13j]
    globe = np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)
    axes.plot_wireframe(*globe, color="grey", alpha=0.15, linewidth=0.5)
    turn = np.linspace(0, 2 * np.pi, 361)
    across, up, _ = _rotation_to_top(eye)
    outline = np.outer(np.cos(turn), across) + np.outer(np.sin(turn), up)
    axes.plot(*outline.T, color="grey", linewidth=0.8)


def _draw_angles(axes: Any, points: np.ndarray) -> None:
    """A histogram of the angles between all pairs."""
    angles = report.pairwise_angles(points)[np.triu_indices(len(points), 1)]
    axes.hist(angles, bins=np.arange(-1, 183, 2))
    axes.set_xlim(-1, 181)
    axes.set_xticks(range(0, 181, 30))
    axes.set_xlabel("angle in degrees")
    axes.set_ylabel("pairs of points")
    axes.grid(alpha=0.3)


def hull_edges(points: np.ndarray) -> np.ndarray:
    """The edges of the convex hull in three dimensions, without diagonals of flat faces.

    Args:
      points: `[N, 3]` on the sphere; up to three are joined all with all.

    Returns:
      `[E, 2]` pairs of rows.
    """
    if len(points) <= 3:
        return np.column_stack(np.triu_indices(len(points), 1))
    hull = ConvexHull(points)
    normals = hull.equations[:, :3]
    edges = set()
    for triangle, neighbors, normal in zip(hull.simplices, hull.neighbors, normals, strict=True):
        for corner, neighbor in enumerate(neighbors):  # The neighbor lies opposite the corner.
            if normal @ normals[neighbor] < _FLAT:
                edges.add(tuple(sorted(np.delete(triangle, corner))))
    return np.array(sorted(edges))


def _rotation_to_top(point: np.ndarray) -> np.ndarray:
    """`[3, 3]` rotation that takes a unit vector to the last axis."""
    across = np.eye(3)[np.argmin(np.abs(point))]
    across = across - (across @ point) * point
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(point, across), point])


def _marker_size(num_points: int) -> float:
    return float(np.clip(2400 / num_points, 6, 90))
