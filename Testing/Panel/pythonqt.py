"""PySide6 with the manners of PythonQt, for tests of the panel where Slicer does not run.

What PythonQt does differently, and panels written with another Qt binding in mind get wrong:

- Qt properties are attributes (``spinBox.value``, ``button.enabled = False``), and calling one fails;
- setters and other slots are methods still (``spinBox.setValue(3)``, ``button.isEnabled()``);
- ``object.connect("clicked(bool)", function)`` takes C++ signatures, refuses signals that are not there, and calls the
  function with as many arguments as it takes;
- an exception in a function that a signal calls is printed and the program goes on: here it is kept in
  :data:`EXCEPTIONS`, for a test to find;
- ``QSettings`` returns text for whatever was stored;
- objects have ``name``, ``className()`` and ``delete()``.

What this cannot show: PythonQt's conversions of None, bytes and numpy numbers, who owns a widget that has no parent,
overloads that are chosen by type, Qt 5 against Qt 6.
"""

from __future__ import annotations

import inspect
import os
import traceback
import types
from collections.abc import Callable
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

EXCEPTIONS: list[str] = []
"""Tracebacks of exceptions in functions that signals called, since it was emptied last."""
VIRTUAL_GETTERS = {"sizeHint", "minimumSizeHint"}
"""Properties that Qt reads through a virtual function, which would call itself."""
MODULES = (QtCore, QtGui, QtWidgets)


class _QtProperty(property):
    """A Qt property as an attribute of objects; on the class itself PySide's own member stays."""

    original: Any = None

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.original if instance is None else super().__get__(instance, owner)


def _write(instance: QtCore.QObject, name: str, value: Any) -> None:
    if not instance.setProperty(name, value):
        raise TypeError(f"{type(instance).__name__}.{name} cannot be {value!r}")


def _add_properties(kind: type) -> None:
    about = kind.staticMetaObject
    for index in range(about.propertyOffset(), about.propertyCount()):
        described = about.property(index)
        name = described.name()
        if name in VIRTUAL_GETTERS:
            continue
        setter = (lambda self, value, name=name: _write(self, name, value)) if described.isWritable() else None
        member = _QtProperty(lambda self, name=name: self.property(name), setter)
        member.original = getattr(kind, name, None)
        setattr(kind, name, member)


def _taking(function: Callable) -> int | None:
    """How many positional arguments a function takes; None for any number."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional for parameter in parameters)


def guarded(function: Callable, count: int) -> Callable:
    """The function as PythonQt calls it for a signal of ``count`` arguments: surplus ones left out, exceptions printed
    and survived."""
    taken = _taking(function)

    def call(*arguments: Any) -> None:
        try:
            function(*(arguments if taken is None else arguments[:taken]))
        except Exception:
            EXCEPTIONS.append(traceback.format_exc())
            traceback.print_exc()

    # PySide looks at how many arguments a slot takes and leaves out what has a default, as the bool of clicked has.
    shapes = (lambda: call(), lambda a: call(a), lambda a, b: call(a, b), lambda a, b, c: call(a, b, c))
    return shapes[count]


def _signals(instance: QtCore.QObject) -> list[str]:
    about = instance.metaObject()
    methods = (about.method(index) for index in range(about.methodCount()))
    kind = QtCore.QMetaMethod.MethodType.Signal
    return [method.methodSignature().data().decode() for method in methods if method.methodType() == kind]


def _arguments(signature: str) -> list[str]:
    inside = signature[signature.index("(") + 1 : signature.rindex(")")].strip()
    return inside.split(",") if inside else []


def _signal_of(instance: QtCore.QObject, signature: str) -> Any:
    """The signal of that very signature. A stand-in's signals carry Python objects where the real ones carry nodes."""
    name = signature.split("(")[0]
    normal = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    known = _signals(instance)
    loose = any(each.split("(")[0] == name and "PyObject" in each for each in known)
    if normal not in known and not loose:
        raise ValueError(f"{type(instance).__name__} has no signal {signature}; it has {', '.join(sorted(known))}")
    signal = base_getattribute(instance, name)
    return signal[_arguments(normal)[0]] if normal in known and len(_arguments(normal)) == 1 else signal


def _connect(instance: QtCore.QObject, signature: str, function: Callable) -> bool:
    if not isinstance(signature, str):
        raise TypeError("PythonQt connects by a signature such as 'clicked(bool)'")
    signal = _signal_of(instance, signature)
    slot = guarded(function, len(_arguments(signature)))
    connections = instance.__dict__.setdefault("_connections", [])
    connections.append((signature, function, slot))
    signal.connect(slot)
    return True


def _disconnect(instance: QtCore.QObject, signature: str, function: Callable) -> bool:
    connections = instance.__dict__.get("_connections", [])
    for entry in connections:
        if entry[0] == signature and entry[1] == function:
            _signal_of(instance, signature).disconnect(entry[2])
            connections.remove(entry)
            return True
    return False


class _BoundSignal:
    """``object.signal.connect(function)``: PythonQt has this form too, as forgiving of arguments as the other."""

    def __init__(self, name: str, instance: QtCore.QObject) -> None:
        self._name, self._instance = name, instance

    def _fullest(self) -> str:
        """Of the signal's signatures the one with most arguments."""
        return max((each for each in _signals(self._instance) if each.split("(")[0] == self._name), key=len)

    def connect(self, function: Callable) -> None:
        _connect(self._instance, self._fullest(), function)

    def disconnect(self, function: Callable) -> None:
        _disconnect(self._instance, self._fullest(), function)

    def emit(self, *arguments: Any) -> None:
        base_getattribute(self._instance, self._name).emit(*arguments)


base_getattribute = QtCore.QObject.__getattribute__
_SPECIAL = {"connect": _connect, "disconnect": _disconnect}


def _getattribute(self: QtCore.QObject, name: str) -> Any:
    if name in _SPECIAL:
        return types.MethodType(_SPECIAL[name], self)
    value = base_getattribute(self, name)
    return _BoundSignal(name, self) if isinstance(value, QtCore.SignalInstance) else value


class TextSettings(QtCore.QSettings):
    """Settings that come back as text, as a file of settings gives them on Linux."""

    def value(self, key: str, default: Any = None, *_: Any) -> Any:
        found = super().value(key, default)
        if isinstance(found, bool):
            return "true" if found else "false"
        return str(found) if isinstance(found, (int, float)) else found


_installed: types.ModuleType | None = None


def install() -> types.ModuleType:
    """Give PySide6's classes PythonQt's manners and return the module ``qt``. It holds for the whole process."""
    global _installed
    if _installed is not None:
        return _installed
    # Whoever imports names from Slicer's qt module gets all of Qt's.
    module = types.ModuleType("qt")
    for source in MODULES:
        for name in dir(source):
            if not name.startswith("_"):
                setattr(module, name, getattr(source, name))
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, QtCore.QObject)]
    for kind in sorted(kinds, key=lambda kind: len(kind.__mro__)):
        _add_properties(kind)
    QtCore.QObject.__getattribute__ = _getattribute
    QtCore.QObject.name = property(
        lambda self: self.property("objectName"), lambda self, value: self.setProperty("objectName", value)
    )
    QtCore.QObject.className = lambda self: self.metaObject().className()
    QtCore.QObject.delete = lambda self: self.deleteLater()
    module.QSettings = TextSettings
    module.QUiLoader = QtUiTools.QUiLoader
    _installed = module
    return module
