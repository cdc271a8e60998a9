"""How a node that does not run yet, such as one being formatted, reaches the others."""

from millstream_server.node import settings
from millstream_server.node.config import NodeConfig
from millstream_server.node.data_folder import DataFolderError
from millstream_server.runtime.channels import Dial, dial_plaintext
from millstream_server.runtime.tls import NodeTls, TlsError


def dial_of(config: NodeConfig) -> Dial:
    """The way to the nodes of ``cluster.id``, with the node's own certificate if it has one.
    Raises DataFolderError."""
    files = settings.tls_files(config)
    if files is None:
        return dial_plaintext
    if not config.cluster_id:
        raise DataFolderError("set cluster.id: the certificates of tls.* name the cluster")
    try:
        return NodeTls.load(files, config.cluster_id, config.node_id).dial
    except TlsError as error:
        raise DataFolderError(str(error)) from None
