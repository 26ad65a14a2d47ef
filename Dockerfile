# The stock binary, and nothing else:
#
#	docker build -t projector .
#	docker run --rm -v "$PWD:/work" -e DATABASE_URL projector plan
#
# VERSION is what --version prints; without it, that is what Go finds out from the repository.
FROM golang:1.26 AS build
ARG VERSION=
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X 'main.version=$VERSION'" -o /projector ./cmd/projector

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /projector /projector
WORKDIR /work
USER 65534:65534
ENTRYPOINT ["/projector"]
