"""The flags of the programs whose imports take seconds, which `--help` does not wait for."""

from skdtune import flags

DEFAULT_SPACE = "quickstart"


def search(description: str) -> flags.Parser:
    parser = flags.Parser("skdtune.search", description)
    parser.argument("space", f"a YAML file, or a name in search_spaces (default: {DEFAULT_SPACE})")
    parser.option(
        "--trials", "settings to try; the baseline runs beside them", check=flags.count, metavar="N"
    )
    parser.option(
        "--epochs",
        "full budget of a trial; the grace period scales with it",
        check=flags.count,
        metavar="N",
    )
    parser.option(
        "--set", "edit any key, such as trial.optim.lr=0.1", metavar="PATH=VALUE", many=True
    )
    parser.option(
        "--name", "of the study (default: the space's name and the time)", check=flags.study_name
    )
    parser.option(
        "--storage", "folder or URI of the study (default: ./studies/NAME)", check=flags.storage
    )
    parser.tracking_uri()
    parser.option(
        "--address",
        "of Ray: local, auto or HOST:PORT (default: RAY_ADDRESS, else a cluster that you have "
        "running on this machine, else local)",
        check=flags.address,
    )
    parser.option(
        "--concurrency",
        "most trials at once (default: as many as fit)",
        check=flags.count,
        metavar="N",
    )
    parser.switch("--resume", "go on with the study of that name, or the newest of the space")
    parser.switch("--check", "check everything, print the plan and stop")
    return parser


def train(description: str) -> flags.Parser:
    parser = flags.Parser("skdtune.train", description)
    parser.argument("config", "best.yaml, or any space with nothing to search", required=True)
    parser.option("--seeds", "how many (default: 3)", check=flags.count, default="3", metavar="N")
    parser.option(
        "--set", "edit any key, such as trial.epochs=300", metavar="PATH=VALUE", many=True
    )
    parser.option(
        "--output", "folder (default: ./trained/STUDY)", check=flags.local_path, metavar="DIR"
    )
    parser.tracking_uri()
    parser.option(
        "--address", "of Ray, as for the search: local, auto or HOST:PORT", check=flags.address
    )
    return parser
