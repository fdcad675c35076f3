from __future__ import annotations

from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Print the Kubernetes manifests for your own names.\n\n"
    "[bold]Example[/bold]\n\n  poolpilot manifests plain-envoy --pool llama | kubectl apply -f -",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

NAMES = "Your names"
Namespace = Annotated[str, typer.Option(help="Where everything is.", rich_help_panel=NAMES)]
Gateway = Annotated[str, typer.Option(help="The Gateway.", rich_help_panel=NAMES)]
GatewayClass = Annotated[str, typer.Option(help="Its GatewayClass.", rich_help_panel=NAMES)]
Port = Annotated[int, typer.Option(help="Where clients reach it.", rich_help_panel=NAMES)]
Route = Annotated[str, typer.Option(help="The HTTPRoute to the pool.", rich_help_panel=NAMES)]
Pool = Annotated[str, typer.Option(help="The InferencePool.", rich_help_panel=NAMES)]
App = Annotated[
    str,
    typer.Option(
        help="Value of the label 'app' of the pool's pods; the pool's name by default.",
        rich_help_panel=NAMES,
    ),
]
TargetPort = Annotated[
    int, typer.Option(help="Where the model servers listen.", rich_help_panel=NAMES)
]
Image = Annotated[
    str, typer.Option(help="PoolPilot's image, with the extra 'kubernetes'.", rich_help_panel=NAMES)
]


@app.command("envoy-gateway")
def envoy_gateway(
    version: Annotated[
        str, typer.Option(help="The version of Envoy Gateway that you run: 1.2.1 to 1.9.")
    ],
    namespace: Namespace = "default",
    gateway: Gateway = "inference-gateway",
    gateway_class: GatewayClass = "inference-gateway",
    listener: Annotated[
        str, typer.Option(help="The Gateway's listener.", rich_help_panel=NAMES)
    ] = "llm-gw",
    port: Port = 8081,
    route: Route = "llm-route",
    pool: Pool = "vllm-llama2-7b-pool",
    app: App = "",
    target_port: TargetPort = 8000,
    picker: Annotated[
        str, typer.Option(help="The endpoint picker's Service.", rich_help_panel=NAMES)
    ] = "inference-gateway-ext-proc",
    image: Image = "poolpilot:latest",
    xds_name_scheme_v2: Annotated[
        bool | None,
        typer.Option(
            "--xds-name-scheme-v2/--xds-name-scheme-v1",
            help="How your Envoy Gateway names its xDS resources (its runtime flag "
            "XDSNameSchemeV2). By default as the version does by itself: V2 from 1.10 on.",
        ),
    ] = None,
    endpoints: Annotated[
        Literal["service", "eds"],
        typer.Option(
            help="Who tells Envoy the pool's pods: Envoy Gateway, from a Service, or our xDS "
            "server, from the InferencePool (1.8 or later)."
        ),
    ] = "service",
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Also simulated model servers, which need no GPU.")
    ] = False,
) -> None:
    """The quickstart with Envoy Gateway, through its policies.

    [bold]Example[/bold]

      poolpilot manifests envoy-gateway --version 1.9 --pool llama --namespace models
    """
    from poolpilot.manifests import envoy_gateway as made
    from poolpilot.manifests.template import join

    try:
        settings = made.Settings(
            version=made.Version.parse(version),
            namespace=namespace,
            gateway=gateway,
            gateway_class=gateway_class,
            listener=listener,
            port=port,
            route=route,
            pool=pool,
            app=app,
            target_port=target_port,
            picker=picker,
            image=image,
            xds_name_scheme_v2=xds_name_scheme_v2,
            endpoints=made.Endpoints(endpoints),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    documents = made.documents(settings)
    if simulated:
        documents["vllm-simulated-deployment.yaml"] = made.model_servers(settings, simulated=True)
    typer.echo(join(documents), nl=False)


@app.command("plain-envoy")
def plain_envoy(
    namespace: Namespace = "poolpilot",
    gateway: Gateway = "inference-gateway",
    gateway_class: GatewayClass = "poolpilot",
    port: Port = 8081,
    route: Route = "llm-route",
    pool: Pool = "vllm-llama2-7b-pool",
    app: App = "",
    target_port: TargetPort = 8000,
    picker_replicas: Annotated[
        int, typer.Option(min=1, help="Of which the first makes the picks.")
    ] = 2,
    image: Image = "poolpilot:latest",
    envoy_image: Annotated[
        str, typer.Option(help="Envoy's image.", rich_help_panel=NAMES)
    ] = "envoyproxy/envoy:v1.40.0",
    sample: Annotated[
        bool, typer.Option("--sample/--no-sample", help="Also a pool and the route to it.")
    ] = True,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Also simulated model servers, which need no GPU.")
    ] = False,
) -> None:
    """Envoy, xDS server and endpoint picker, without any other gateway.

    [bold]Example[/bold]

      poolpilot manifests plain-envoy --pool llama --namespace models
    """
    from poolpilot.manifests import plain_envoy as made
    from poolpilot.manifests.template import join

    try:
        settings = made.Settings(
            namespace=namespace,
            gateway=gateway,
            gateway_class=gateway_class,
            port=port,
            route=route,
            pool=pool,
            app=app,
            target_port=target_port,
            picker_replicas=picker_replicas,
            image=image,
            envoy_image=envoy_image,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    documents = made.documents(settings)
    if sample:
        documents["sample.yaml"] = made.sample(settings)
    if simulated:
        documents["vllm.yaml"] = made.simulated_servers(settings)
    typer.echo(join(documents), nl=False)
