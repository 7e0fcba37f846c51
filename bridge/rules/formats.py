"""Formats in the rules file: from what a source says to its decoders, with each problem at its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path as FilePath

from bridge.core.decoding import Decoder
from bridge.formats.choose import FormatError, FormatSettings, choose
from bridge.formats.registry import RegistrySettings
from bridge.rules.check import Checker
from bridge.rules.document import Path
from bridge.rules.model import FormatModel, RegistryModel, SourceModel
from bridge.rules.secrets import substitute


class FormatCompiler:
    """Makes decoders of what sources say. `folder` is where the names of files begin; `environment` is for secrets."""

    def __init__(self, checker: Checker, folder: FilePath, environment: Mapping[str, str] = os.environ) -> None:
        self._checker = checker
        self._folder = folder
        self._environment = environment
        self._registry: RegistrySettings | None = None

    def take_registry(self, model: RegistryModel | None) -> None:
        """The registry of sources that have none of their own."""
        self._registry = self._registry_settings(model, ("schema_registry",)) if model is not None else None

    def decoders(self, source: SourceModel, path: Path) -> tuple[Decoder | None, Decoder | None] | None:
        """What reads the source's values and keys; None where a problem was told. Keys that are text have no decoder."""
        registry, told = self._registry, len(self._checker.problems)
        if source.schema_registry is not None:
            registry = self._registry_settings(source.schema_registry, (*path, "schema_registry"))
        of_values = self._choose(source, registry, path, is_key=False)
        of_keys = self._choose(source.key_format, registry, (*path, "key_format"), is_key=True)
        return None if len(self._checker.problems) > told else (of_values, of_keys)

    def _choose(self, model: FormatModel, registry: RegistrySettings | None, path: Path, *, is_key: bool) -> Decoder | None:
        settings = FormatSettings(
            model.format,
            schema_file=self._folder / model.schema_file if model.schema_file is not None else None,
            message=model.message,
            field_names=model.field_names,
            framing=model.framing,
            subject=model.subject,
            check_schema=model.check_schema,
            registry=registry,
        )
        try:
            return choose(settings, is_key=is_key)
        except FormatError as error:
            for problem in error.problems:
                # A key's format may stand there as a text alone, which is its place then.
                setting = error.setting or ("" if is_key else "format")
                place = path[:-1] if is_key and setting == "schema_registry" else path
                self._checker.tell((*place, setting) if setting else place, problem)
            return None

    # The registry.

    def _registry_settings(self, model: RegistryModel, path: Path) -> RegistrySettings | None:
        properties = {name: self._secret(value, (*path, "properties", name)) for name, value in (model.properties or {}).items()}
        if (model.user is None) != (model.password is None):
            self._checker.tell(path, 'has only one of "user" and "password"')
        if model.user is not None and model.password is not None:
            properties["basic.auth.user.info"] = f"{model.user}:{self._secret(model.password, (*path, 'password'))}"
        for setting, property_ in _FILES.items():
            name = getattr(model, setting)
            if name is not None:
                file = self._folder / name
                if not file.is_file():
                    self._checker.tell((*path, setting), f"there is no file {file}")
                properties[property_] = str(file)
        if model.key_file is not None and model.certificate_file is None:
            self._checker.tell(path, '"key_file" belongs to "certificate_file", which is not there')
        if model.key_password is not None:
            properties["ssl.key.password"] = self._secret(model.key_password, (*path, "key_password"))
        return RegistrySettings(model.url, (model.timeout or 5_000) / 1_000, tuple(sorted(properties.items())))

    def _secret(self, text: str, path: Path) -> str:
        return substitute(text, self._environment, path, self._checker)


_FILES = {"ca_file": "ssl.ca.location", "certificate_file": "ssl.certificate.location", "key_file": "ssl.key.location"}
