"""The clients of SQS and ECR, and what they return, as far as they are used: their types need no package more."""

from typing import Protocol, TypedDict


class Message(TypedDict, total=False):
    """A message as SQS returns it, as far as it is read."""

    Body: str
    ReceiptHandle: str
    MessageAttributes: dict[str, dict[str, str]]


class Messages(TypedDict, total=False):
    """A reply of ReceiveMessage."""

    Messages: list[Message]


class QueueUrl(TypedDict):
    """A reply of GetQueueUrl."""

    QueueUrl: str


class QueueClient(Protocol):
    """The SQS client's methods that are called."""

    def get_queue_url(self, *, QueueName: str, QueueOwnerAWSAccountId: str) -> QueueUrl: ...  # noqa: N803
    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        MaxNumberOfMessages: int,  # noqa: N803
        VisibilityTimeout: int,  # noqa: N803
        MessageAttributeNames: list[str],  # noqa: N803
    ) -> Messages: ...
    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> object: ...  # noqa: N803


class FoundImage(TypedDict):
    """One of BatchGetImage's answers."""

    imageManifest: str


class Failure(TypedDict):
    """An image that BatchGetImage could not answer."""

    failureCode: str


class Images(TypedDict):
    """What BatchGetImage answers."""

    images: list[FoundImage]
    failures: list[Failure]


class LayerUrl(TypedDict):
    """Where a part of an image can be downloaded for some minutes."""

    downloadUrl: str


class RegistryClient(Protocol):
    """The ECR client's methods that are called."""

    def batch_get_image(
        self,
        *,
        registryId: str,  # noqa: N803
        repositoryName: str,  # noqa: N803
        imageIds: list[dict[str, str]],  # noqa: N803
        acceptedMediaTypes: list[str],  # noqa: N803
    ) -> Images: ...
    def get_download_url_for_layer(
        self,
        *,
        registryId: str,  # noqa: N803
        repositoryName: str,  # noqa: N803
        layerDigest: str,  # noqa: N803
    ) -> LayerUrl: ...
