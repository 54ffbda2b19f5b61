"""Where NSD and COCO are."""

from __future__ import annotations

from dataclasses import dataclass, field

from obstore.store import S3Store

from nbutils.transfer.transport import Remote, Retry, client_options, open_http

COCO_SHA1 = "8551ee4bb5860311e79dace7e79cb91e432e78b3"
"""Of COCO's annotations_trainval2017.zip, as GluonCV's download script lists it."""


@dataclass(frozen=True)
class Servers:
    """Where the data come from.

    Attributes
    ----------
    endpoint : S3 server with the bucket as the first part of its paths
    bucket, region : NSD's, of the AWS Public Dataset Program
    coco : folder with ``train2017``, ``val2017`` and ``annotations``
    annotations_sha1 : of COCO's annotations zip; None trusts the checksums inside the zip
    retry : Retry
    """

    endpoint: str = "https://s3.us-east-2.amazonaws.com"
    bucket: str = "natural-scenes-dataset"
    region: str = "us-east-2"
    coco: str = "http://images.cocodataset.org"
    annotations_sha1: str | None = COCO_SHA1
    retry: Retry = field(default_factory=Retry)

    def open_bucket(self) -> Remote:
        """Return NSD's bucket, read without an account."""
        store = S3Store(
            self.bucket,
            region=self.region,
            # Named even where it is Amazon's own, so that no AWS_ENDPOINT takes its place.
            endpoint=self.endpoint.rstrip("/"),
            virtual_hosted_style_request=False,
            skip_signature=True,
            **client_options(self.retry),
        )
        return Remote(store, self.endpoint, self.retry)

    def open_coco(self) -> Remote:
        """Return COCO's server."""
        return open_http(self.coco, self.retry)
