"""How each operator of a traced network becomes operations of the graph: every file here files the operators it handles."""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
