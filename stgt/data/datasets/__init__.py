"""The published data sets that `stgt data convert` reads, one file each, by the name that the command takes."""

from stgt.data.datasets.cc3m import CC3M
from stgt.data.datasets.dataset import DataSet
from stgt.data.datasets.didemo import DIDEMO
from stgt.data.datasets.lsmdc import LSMDC
from stgt.data.datasets.msrvtt import MSRVTT_1KA, MSRVTT_7K, MSRVTT_FULL
from stgt.data.datasets.msrvtt_qa import MSRVTT_QA
from stgt.data.datasets.msvd import MSVD
from stgt.data.datasets.msvd_qa import MSVD_QA
from stgt.data.datasets.vidal import VIDAL
from stgt.data.datasets.webvid import WEBVID

DATA_SETS: dict[str, DataSet] = {
    "msrvtt-1ka": MSRVTT_1KA,
    "msrvtt-7k": MSRVTT_7K,
    "msrvtt-full": MSRVTT_FULL,
    "msvd": MSVD,
    "didemo": DIDEMO,
    "lsmdc": LSMDC,
    "msrvtt-qa": MSRVTT_QA,
    "msvd-qa": MSVD_QA,
    "webvid": WEBVID,
    "cc3m": CC3M,
    "vidal": VIDAL,
}
