"""Brings MLflow up to date with a study on disk: `python -m skdtune.sync [STUDY]`. Repeating it
changes nothing."""

if __name__ == "__main__":  # before the imports, which take seconds and read the environment
    from skdtune import errors

    errors.begin()

import sys

from skdtune import flags, lock, records
from skdtune.errors import NOT_DONE, ConfigError, first_line, run
from skdtune.finding import newest, on_disk
from skdtune.tracking_uri import default_uri, knock


def main(arguments: list[str]) -> int:
    parser = flags.Parser("skdtune.sync", __doc__)
    parser.study(is_on_disk=True)
    parser.tracking_uri()
    options = parser.parse(arguments)
    folder = newest() if options["study"] is None else on_disk(options["study"])
    if folder is None:
        raise ConfigError(
            options["study"] or "STUDY", ["no such study in ./studies, and no study's folder"]
        )
    from skdtune import tracking

    study = records.load(folder)
    uri = options["tracking_uri"] or study.tracking_uri or default_uri()
    try:
        with lock.held(folder, study.name):
            knock(uri)
            study = records.load(folder)  # as it is now that nobody else changes it
            tracking.Mirror(study, uri).push(live=False)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - a server, a database or its driver, each its own
        print(f"MLflow at {uri} cannot be written: {first_line(error)}", file=sys.stderr)
        return NOT_DONE
    print(f"{uri} has study {study.name}: {len(study.records)} trials")
    return 0


if __name__ == "__main__":
    run(main)
