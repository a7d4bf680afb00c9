"""How Sphinx builds this folder: python -m sphinx -W --keep-going -b html docs docs/_build/html

With `-b doctest -D nb_execution_mode=off` it runs the examples of the guide instead. Neither needs a network.
"""

import os
import runpy
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported, here and in the notebooks.

from sphinx.util import inspect, logging

import keras_glimpse

project, author, release = "keras_glimpse", "The keras_glimpse authors", keras_glimpse.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = True  # A reference to nothing is a warning, and -W makes warnings errors.
# What autodoc finds in signatures and docstrings of other packages. Inventories of their sites would need a network.
nitpick_ignore_regex = [
    ("py:.*", r"(keras|tf|tensorflow|np|numpy|os|pathlib|collections|matplotlib|Callable|Mapping|Sequence|Path)\b.*"),
    ("py:(class|exc|obj)", r"[a-z]+|[A-Z]\w+(Error|Warning)"),
]

html_theme = "furo"
html_title = f"keras_glimpse {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = html_show_copyright = False

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # Every build runs the tutorials.
nb_execution_raise_on_error = True
nb_execution_timeout = 1200  # Seconds a cell: .ci/run builds beside other programs.
nb_merge_streams = True
nb_output_stderr = "remove"  # What TensorFlow logs is not for readers.
copybutton_exclude = ".linenos, .gp, .go"

default_role = "code"  # Docstrings put names in single backticks.
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_custom_sections = [("Call arguments", "params_style")]
napoleon_use_rtype = False
python_maximum_signature_line_length = 80

# The examples of the guide write files: into a folder that goes when they end. Docstrings are run by pytest.
doctest_test_doctest_blocks = ""
doctest_global_setup = """
import os, tempfile
came_from, scratch = os.getcwd(), tempfile.TemporaryDirectory()
os.chdir(scratch.name)
"""
doctest_global_cleanup = "os.chdir(came_from); scratch.cleanup()"


def read_docstring(app, what, name, obj, options, lines):
    """A public name without a docstring is a warning too; and examples that are not indented, as in Keras, get a heading."""
    if not any(line.strip() for line in lines):
        logging.getLogger(__name__).warning("%s has no docstring", name)
    lines[:] = "\n".join(lines).replace("Example:\n>>>", ".. rubric:: Example\n\n>>>").split("\n")


def signature_of_init(app, what, name, obj, options, signature, returns):
    """Keras's classes have a `__new__` that takes anything, which autodoc would show."""
    if what == "class" and "__init__" in vars(obj):
        init = inspect.signature(obj.__init__, bound_method=True)
        signature = inspect.stringify_signature(init, show_return_annotation=False, unqualified_typehints=True)
    return signature, returns


# The page of recipes/deploy/demo.py, in the folder demo/ of the site; without LiteRT.js in its cache the site has none.
demo = runpy.run_path(str(Path(__file__).parent.parent / "recipes" / "deploy" / "demo.py"))
litertjs = demo["CACHE"] / demo["PACKAGES"]
if litertjs.is_dir():
    tags.add("demo")  # noqa: F821  Sphinx has it here.


def build_demo(app, error):
    folder = Path(app.outdir) / "demo"
    if app.builder.name == "html" and not error and app.tags.has("demo"):
        shutil.rmtree(folder, ignore_errors=True)
        demo["build"](keras_glimpse.load_pretrained("jittered-mnist-best"), folder, litertjs)


def setup(app):
    app.connect("build-finished", build_demo)
    app.connect("autodoc-process-signature", signature_of_init)
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # Before napoleon.
