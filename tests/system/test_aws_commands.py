"""Every command of the AWS CLI that we print or document exists, with its options."""

from pathlib import Path

import pytest

from tests.system.aws_commands import find_commands, find_problems, texts

ROOT = Path(__file__).parents[2]
PLACES = ("buddy_ops", "notebooks", "docs", ".github", "sandbox/README.md", "README.md")
SUFFIXES = (".py", ".ipynb", ".md", ".yml", ".j2")


def files() -> list[Path]:
    found = [ROOT / place for place in PLACES if (ROOT / place).is_file()]
    folders = [ROOT / place for place in PLACES if (ROOT / place).is_dir()]
    found += [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES]
    return [path for path in found if not {".ipynb_checkpoints", "_build"} & set(path.parts)]


def test_each_command_that_we_name_exists() -> None:
    """Service and operation are botocore's, and each option is one of the operation's members."""
    wrong = {
        (path.relative_to(ROOT).as_posix(), command): problems
        for path in files()
        for text in texts(path)
        for command in find_commands(text)
        if (problems := find_problems(command, whole=False))
    }
    assert wrong == {}


def test_the_check_finds_the_commands() -> None:
    """Those in f-strings, across lines and in documents, among them the one that no sandbox answers."""
    found = {" ".join(each.split()[1:3]) for path in files() for text in texts(path) for each in find_commands(text)}
    assert {"service-quotas request-service-quota-increase", "lambda create-alias", "kms create-key"} <= found
    assert {"dynamodb list-backups", "lambda wait", "ssm put-parameter", "cloudformation deploy"} <= found


@pytest.mark.parametrize(
    ("command", "problems"),
    [
        ("aws lambda put-function-concurrency --function-name f --reserved-concurrent-executions 4 --region r", []),
        ("aws lambda publish-version --function-name f --query Version --output text", []),
        ("aws lambda wait function-updated-v2 --function-name f", []),
        ("aws dynamodb update-table --table-name t --no-deletion-protection-enabled", []),
        ("aws lamda get-alias", ["there is no service lamda"]),
        ("aws lambda fetch-alias --name live", ["lambda has no operation fetch-alias"]),
        ("aws lambda wait function-updated-v9", ["lambda has no operation wait function-updated-v9"]),
        ("aws lambda get-alias --function f --name live", ["no option --function", "--function-name is missing"]),
        (
            "aws lambda put-function-concurrency --function-name f --reserved-concurrent-executions many",
            ["--reserved-concurrent-executions many is no number"],
        ),
    ],
)
def test_the_check_says_what_the_cli_would_refuse(command: str, problems: list[str]) -> None:
    """A wrong service, operation, option, value, or an option that is left out."""
    assert find_problems(command) == problems
