ask() {
  exec 3<>/dev/tcp/127.0.0.1/${ADMIN_PORT:-19000}
  printf '%s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n' "$1" >&3
  cat <&3
  exec 3<&-
}
busy() {
  while read -r name count; do
    case $name in
      http.admin.* | http.async-client.*) ;;
      *.downstream_rq_active:) [ "${count%$'\r'}" = 0 ] || return 0 ;;
    esac
  done < <(ask 'GET /stats?filter=downstream_rq_active$')
  return 1
}
# Clients are told to close; load balancers and the Service lag behind, so new ones are still taken.
ask 'POST /healthcheck/fail' >/dev/null
sleep "${DRAIN_PAUSE:-5}"
ask 'POST /drain_listeners?graceful&skip_exit' >/dev/null
while busy; do sleep 1; done
