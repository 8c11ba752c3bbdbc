"""A stand-in for a router: speaks SSDP and the WANIPConnection service of UPnP on loopback."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

GROUP, PORT, HERE = "239.255.255.250", 1900, "127.0.0.1"
DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>{DEVICE}</deviceType><friendlyName>stand-in</friendlyName><UDN>uuid:1</UDN><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><UDN>uuid:2</UDN><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1</serviceType><serviceId>c</serviceId>
<controlURL>/common</controlURL><eventSubURL>/e</eventSubURL><SCPDURL>/s</SCPDURL></service></serviceList><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><UDN>uuid:3</UDN><serviceList>
<service><serviceType>{SERVICE}</serviceType><serviceId>w</serviceId><controlURL>/control</controlURL>
<eventSubURL>/e</eventSubURL><SCPDURL>/s</SCPDURL></service></serviceList></device></deviceList></device></deviceList>
</device></root>"""


class StandInRouter:
    """Maps ports on paper."""

    def __init__(self, external_ip: str) -> None:
        self.external_ip = external_ip
        self.mapped: dict[int, tuple[str, int, int]] = {}
        """Internal address, internal port and lease by external port."""
        self.permanent_only = False

    def answer(self, action: str, body: str) -> tuple[int, str]:
        def field(name: str) -> str:
            found = re.search(f"<{name}>([^<]*)</{name}>", body)
            return found.group(1) if found else ""

        match action:
            case "GetExternalIPAddress":
                return 200, f"<NewExternalIPAddress>{self.external_ip}</NewExternalIPAddress>"
            case "GetStatusInfo":
                return 200, "<NewConnectionStatus>Connected</NewConnectionStatus><NewUptime>1</NewUptime>"
            case "AddPortMapping":
                lease = int(field("NewLeaseDuration"))
                if self.permanent_only and lease:
                    return 500, "725"
                external = int(field("NewExternalPort"))
                self.mapped[external] = (field("NewInternalClient"), int(field("NewInternalPort")), lease)
                return 200, ""
            case "DeletePortMapping":
                return (200, "") if self.mapped.pop(int(field("NewExternalPort")), None) else (500, "714")
        return 500, "401"


@contextmanager
def upnp_router(external_ip: str = "8.8.8.8") -> Iterator[StandInRouter | None]:
    """Run the stand-in; None where this machine has no multicast on loopback."""
    router = StandInRouter(external_ip)
    try:
        ssdp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ssdp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ssdp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ssdp.bind((GROUP, PORT))
        ssdp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton(HERE))
    except OSError:
        yield None
        return
    ssdp.settimeout(0.1)
    http = HTTPServer((HERE, 0), _handler(router))
    stopped = threading.Event()
    threads = [
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}),
        threading.Thread(target=_answer_searches, args=(ssdp, http.server_port, stopped)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield router
    finally:
        stopped.set()
        http.shutdown()
        for thread in threads:
            thread.join()
        http.server_close()
        ssdp.close()


def multicast_works() -> bool:
    """Whether a packet to the group comes back on loopback."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((GROUP, 0))
            listener.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton(HERE)
            )
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HERE))
            sender.sendto(b"?", (GROUP, listener.getsockname()[1]))
            listener.settimeout(1)
            return listener.recv(1) == b"?"
        except OSError:
            return False


def _answer_searches(ssdp: socket.socket, http_port: int, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            data, sender = ssdp.recvfrom(2048)
        except TimeoutError:
            continue
        found = re.search(rb"(?im)^ST: *(\S+)", data)
        if data.startswith(b"M-SEARCH") and found and found.group(1).decode() in (DEVICE, SERVICE, "upnp:rootdevice"):
            target = found.group(1).decode()
            answer = (
                f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=60\r\nST: {target}\r\nUSN: uuid:1::{target}\r\nEXT:\r\n"
                f"SERVER: stand-in\r\nLOCATION: http://{HERE}:{http_port}/description.xml\r\n\r\n"
            )
            ssdp.sendto(answer.encode(), sender)


def _handler(router: StandInRouter) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, DESCRIPTION)

        def do_POST(self) -> None:
            action = self.headers.get("SOAPAction", "").strip('"').partition("#")[2]
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            status, inner = router.answer(action, body)
            content = (
                f'<u:{action}Response xmlns:u="{SERVICE}">{inner}</u:{action}Response>'
                if status == 200
                else "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><UPnPError "
                f'xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{inner}</errorCode></UPnPError></detail></s:Fault>'
            )
            envelope = "http://schemas.xmlsoap.org/soap/envelope/"
            self._send(
                status,
                f'<?xml version="1.0"?><s:Envelope xmlns:s="{envelope}" s:encodingStyle='
                f'"http://schemas.xmlsoap.org/soap/encoding/"><s:Body>{content}</s:Body></s:Envelope>',
            )

        def _send(self, status: int, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
