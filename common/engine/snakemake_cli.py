"""`python -m common.engine.snakemake_cli`: Snakemake's command line with this project's logger and reporter.

Snakemake finds plugins among installed packages; the project is not installed, so they are registered here.
"""

import sys

from snakemake.cli import main
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry
from snakemake_interface_report_plugins.registry import ReportPluginRegistry

from common.engine import event_logger
from common.publish import report

LOGGER, REPORTER = "events", "landmarks"


def register() -> None:
    """Makes `--logger events` and `--reporter landmarks` known to Snakemake."""
    LoggerPluginRegistry().register_plugin(LOGGER, event_logger)
    ReportPluginRegistry().register_plugin(REPORTER, report)


if __name__ == "__main__":
    register()
    main(sys.argv[1:])
