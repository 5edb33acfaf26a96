"""Telephone calls as they are held, written for the tests; who speaks is at the head of each line.

A agent, B second agent, C customer, D second customer, M machine. In a call marked `unknown`
nothing tells who is who.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.events import Direction, Role


@dataclass(frozen=True)
class Dialogue:
    name: str
    language: str
    direction: Direction
    lines: tuple[tuple[str, str], ...]
    unknown: bool = False
    """Whether nothing in it tells who is who."""
    machine: Role = field(default=Role.IVR)


def read(text: str) -> list[Dialogue]:
    """Calls parted by empty lines; the first line is `language direction name [unknown] [role]`,
    lines that begin with spaces go on."""
    found = []
    for block in text.strip().replace("\n  ", " ").split("\n\n"):
        head, *lines = block.splitlines()
        language, direction, name, *marks = head.split()
        machine = next((Role(it.upper()) for it in marks if it != "unknown"), Role.IVR)
        found.append(
            Dialogue(
                name=name,
                language=language,
                direction=Direction(direction.upper()),
                lines=tuple((line[0], line[2:].strip()) for line in lines),
                unknown="unknown" in marks,
                machine=machine,
            )
        )
    return found


ENGLISH = """
en inbound broadband
A Good afternoon, Northlink Broadband, you're speaking with Priya. How can I help?
C Hi there. My internet's been down since, what, Tuesday night?
A Oh no, I'm sorry to hear that. Could I take your account number or the postcode?
C It's BS3 4QD.
A Lovely. And just for security purposes, what's your date of birth?
C Fourth of June seventy nine.
A Thank you. Right, I can see there's a fault in your area. An engineer is working on it.
C So when will it be back?
A We're expecting six o'clock tonight. Is there anything else I can help you with?
C No that's it, cheers.

en inbound bank-card
A Thanks for calling Harbor Bank, this is Marcus. May I have your full name please?
C Yes it's Angela Torres. I have a charge on my card I don't recognize.
A Okay Ms Torres. Can you verify the last four of the card?
C Eight one one two.
A And which charge are you referring to?
C Forty nine ninety nine from some streaming thing on the third.
A I see it. I'll go ahead and block the card and we will send you a new one. It takes five to
  seven business days.
C Five to seven? Wow. All right.
A I apologize for the inconvenience.

en inbound airline
C Hello? Hi. Yes I need to change my flight to Denver.
A Sure, I can take a look. Do you have your confirmation number?
C X as in x-ray, J, four, seven, two, P.
A Thank you. One moment while I pull that up. Okay, and what date would you like to travel instead?
C The nineteenth, if there's anything in the morning.
A There's a seven fifteen. The fare difference is forty two dollars. Would you like me to book that?
C Yeah, let's do it.

en inbound pharmacy
A Greenway Pharmacy, how may I direct your call?
C I'm trying to refill a prescription for my mother.
A Okay. What's the prescription number?
C I don't have the bottle with me. Her name is Ruth Adler.
A That's fine. Date of birth?
C Second of February nineteen forty one.
A All set, it will be ready after four.
C Thank you so much for your help.

en inbound angry-parcel
A Customer care, Dana speaking.
C Yeah hi. This is the third time I'm calling. My package still hasn't arrived and nobody calls me
  back.
A I'm so sorry about that, let me see what we can do. Do you have the tracking number?
C I gave it to the last guy. He said he'd put me on hold and then he hung up on me.
A That should not have happened. Let me get you that refund.
C I don't want a refund, I want my shoes. This is ridiculous.
A I completely understand your frustration.

en inbound laptop
A Tech support, can I get your serial number?
C Um, where would that be?
A On the bottom, on a white sticker.
C Okay it's five C G, nine zero four one.
A And what is it doing?
C It won't turn on. I mean the light comes on but the screen stays black.
A Please press and hold the power button for thirty seconds. Did that make any difference?
C Nope. Same thing.
A I'll create a ticket, your reference number is four four one nine.

en inbound hotel
A Good evening, The Alder House, how may I assist you?
C Evening. I'd like to make a reservation for two nights, from the eleventh.
A Certainly. For how many guests?
C Two adults and a baby.
A I can offer you the garden room at one sixty a night.
C Does that include breakfast?
A It does. Could I have your name and a card to hold the booking?
C Owen Parry. Let me find my card, hang on.

en inbound insurance
C Good morning. I was in a bit of an accident and I need to file a claim.
A I'm sorry to hear that, is everybody okay?
C Yeah, we're all fine, just the bumper.
A Glad to hear it. Can I have your policy number?
C I think it's H three three, oh nine, double two.
A And whereabouts did this happen?
C On the ring road by the stadium.

en inbound polite-customer
C Hello, thank you for taking my call, I hope you're having a nice day.
A Thank you, you too. What can I do for you?
C I bought a kettle from you last week and I think it is leaking.
A Oh dear. Would you like a replacement or your money back?
C A replacement would be lovely, thank you for being so patient with me.
A Not at all. I'll email you a label.

en outbound survey
C Hello?
A Hi, good evening. This is Tom calling on behalf of Bright Energy. Is this a good time?
C Um, what's it about?
A It's a quick survey about the visit from our technician last week. It takes two minutes.
C Go on then.
A On a scale from one to ten, how satisfied were you?
C Eight I suppose. He was late.
A Thank you. And would you recommend us?
C Probably, yeah.

en outbound dentist
C Yeah?
A Good morning, may I speak with Karen please?
C Speaking.
A Hi Karen, I'm calling from Dr Lowe's office to remind you of your appointment on Friday at ten.
C Oh right. Can we make it later?
A Let me see what we have. Would two thirty work for you?
C That's perfect, thanks.

en outbound collections
C Hello.
A Hello, am I speaking with Mr Okafor?
C Who's this?
A My name is Sandra, I'm with Meridian Finance. This call is being recorded. For verification
  purposes can you confirm your date of birth?
C I'm not giving you that. What do you want?
A It's regarding your account, which is sixty days past due.
C I already paid that. I sent a check.

en callback plumber
C Hi, thanks for calling me back.
A No problem. So you left a message about a leak?
C Yeah the boiler's dripping again. I paid for a repair in March.
A Right, I'm sorry about that. I can get somebody to you tomorrow between eight and twelve.
C Can you do today? I was hoping for today.
A Let me check with the team. Could you hold the line for a second? ... Thanks for holding. We can
  do five o'clock.
C Brilliant.

en inbound quoting-agent
A So to recap, you told us, I want a refund, I want to speak to your manager, is that right? How
  can I help you with that now?
C Yes. And the young man before you said, how can I help you, and then he just left me there.
A I do apologize.
C He said thank you for calling and hung up.
A I'm going to process the refund for you.

en inbound transfer
A Thank you for calling Wexford Home, how can I help you?
C Hi, my dishwasher isn't draining, and I have a question about the warranty.
A Okay. Let me transfer you to our appliance team, one moment while I connect you.
B Appliance team, this is Joel. Can I have your order number please?
C Sure. It's nine nine two one seven.
B Thank you. And what seems to be the problem?
C It's not draining. There's water standing at the bottom.
B I'll schedule a technician, he'll give you a call. Is there anything else?
C No, thanks.

en inbound couple
A Sunline Travel, how may I help you?
C Hi, yes, we booked a cruise with you and I'm calling about our cabin.
D It's the wrong deck. We wanted to cancel it actually.
C My husband says cancel. I'd like to know the fee first.
A Of course. May I have your booking number?
C It's S L four four one.
A Thank you. Let me check our system. The fee would be two hundred.
D That's ridiculous.

en inbound queue-then-agent
M Thank you for calling Apex. Please listen carefully as our menu options have changed. For sales,
  press one. For support, press two.
M All of our agents are currently busy. Your call is important to us. Please stay on the line.
A Apex support, this is Lee, how can I help?
C Finally. I've been on hold for twenty minutes. My account is locked.
A I'm sorry for the wait. What's your email address?
C It's jo at sample dot com.

en outbound voicemail-left voicemail
M Hi, you've reached Dan. I can't come to the phone right now, please leave a message after the
  beep.
A Hi Dan, this is Melissa from Oakwood Motors. Just letting you know the part has come in. Give us
  a call back when you can.

en inbound bot-first bot
M Hi, I'm Ava, the virtual assistant of Metro Water. How can I help you today?
C I want to report a leak in my street.
M Okay. What is the address?
C Twelve Mill Lane.
M Thank you. Is the water on the road or the pavement?
C On the road.

en inbound friends unknown
A Hey, it's me. Did you see the game last night?
C Oh my God, yes. The second half was unbelievable.
A I know, right? We should go next time.
C Totally. Are you free on Saturday?
A I think so. Let me ask Jen.
C Cool.

en outbound colleagues unknown
C Yeah, hello?
A Morning. Did the truck leave already?
C It left at about six. It should be there by nine.
A Okay good. I'll tell the guys.
C Right. Talk later.

en inbound numbers unknown
A Yes.
C Forty two.
A And the other one?
C Nineteen.
A Okay. Got it.
C Bye.

en unknown small-talk unknown
A How's the weather over there?
C Cold. It's been raining all week.
A Same here. It's miserable.
C Well, it's that time of the year.
A Right. Anyway, I should get going.
C Sure. Take care.
"""

CHINESE = """
zh inbound 宽带报修
A 您好，北岸宽带客服，工号零三二一为您服务，请问有什么可以帮您？
C 喂，你好，我家的网从昨天晚上就断了。
A 好的先生，请您提供一下宽带账号或者办理时留的手机号。
C 一三八零零一一二二三三。
A 好的，请稍等。让您久等了，我这边查到您所在的区域正在检修，预计今天下午六点恢复。
C 怎么又检修啊，上个月也是这样。
A 非常抱歉给您带来不便。请问还有其他可以帮您的吗？
C 没有了，谢谢。
A 感谢您的来电，祝您生活愉快，再见。

zh inbound 快递未到
C 你好，我想查一下我的快递，都一个星期了还没到。
A 您好，麻烦您报一下运单号。
C 七七三二零零九八。
A 好的，您稍等一下。系统显示是昨天到的网点，我帮您催一下派送。
C 你们能不能快一点，我这个东西急用的。
A 理解您的心情，我马上给您反馈，二十四小时内给您回复。
C 行吧。

zh inbound 退货
A 您好，欢迎致电青禾家居，很高兴为您服务。
C 我在你们家买的那个柜子，门都关不上，我要退货。
A 非常抱歉，请问您的订单号是多少？
C 我找一下啊，二零二五零三一八九九。
A 好的，看到了。这边给您安排师傅上门看一下可以吗？
C 不用看了，直接给我退了吧。
A 那我帮您申请退货退款，三个工作日内到账。

zh inbound 银行挂失
A 您好，海港银行，请问有什么可以帮到您？
C 我的卡丢了，我要挂失。
A 好的女士，为了您的账户安全，需要核实一下您的身份，请问您的姓名是？
C 我叫刘敏。
A 请问您身份证后四位是多少？
C 三二一X。
A 好的，已经帮您办理挂失，补卡的话请您携带身份证到就近网点。

zh inbound 航空改签
C 喂，我想改一下机票，明天早上那班。
A 好的，请问您的姓名和票号？
C 王建国，票号我没在手边。
A 没关系，您报一下身份证号也可以。
C 四四零一零六一九八八零二零三。
A 好，改到下午三点的话差价是两百三十元，您看可以吗？
C 可以，你帮我改吧。

zh inbound 手机售后
A 售后服务，请讲。
C 我手机充不进电了，才买了两个月。
A 您先换一根充电线试一下，看看能不能充。
C 换过了，都不行。
A 那可能是尾插的问题，您看方便送到门店检测吗？
C 要钱吗？
A 保修期内是免费的。

zh inbound 酒店预订
A 您好，云山酒店前台，请问有什么需要？
C 你好，我想订这周六的房间，两个大人一个小孩。
A 好的，请问怎么称呼您？
C 姓陈。
A 陈先生，家庭房一晚六百八，含三份早餐，您看可以吗？
C 可以。能不能加一张床？
A 可以的，给您免费加一张。

zh inbound 生气的客户
A 您好。
C 我都打了三次电话了，你们到底管不管？我要投诉！
A 您别着急，您慢慢说，是什么问题？
C 冰箱修了两次还是不制冷，师傅说没问题，什么没问题，东西都坏了！
A 真的很抱歉，我马上帮您登记，安排专人跟您联系。
C 每次都这么说。

zh outbound 回访
C 喂？
A 您好，请问是赵女士吗？
C 是我，你哪位？
A 您好赵女士，我是安心家电的售后回访专员，想耽误您两分钟做个回访。
C 哦，你说吧。
A 上周师傅上门维修，请问问题解决了吗？
C 解决了，现在没事了。
A 好的，那您对这次服务满意吗？
C 还行吧。

zh outbound 保险推销
C 喂，哪位？
A 先生您好，打扰您了，我这边是平川保险的，给您来电是想跟您介绍一下我们新的医疗险。
C 不用了，我在开会。
A 那请问您什么时候方便接听电话呢？
C 不需要，别打了。

zh outbound 物业通知
C 你好。
A 您好，这里是锦园物业服务中心，请问您是三号楼502的业主吗？
C 是啊，怎么了？
A 明天上午九点到十二点停水，跟您说一声，请您提前存一点水。
C 哦好，知道了。

zh callback 回电
C 喂，你好，谢谢你给我回电话。
A 不客气，您之前反映的是水表读数的问题对吧？
C 对，我家这个月水费突然多了三百多，我都没怎么住。
A 好的，我帮您查了，是抄表抄错了，多收的部分退到您账户里。
C 哦那就好，辛苦你了。

zh inbound 客服引用
A 您刚才说，我要退货，我要投诉你们，是这样吗？我帮您核实一下。
C 对啊，上次那个客服说，我帮您登记，很快给您回复，结果一个星期都没人理我。
A 非常抱歉，这次我亲自给您跟进。
C 他还说请您稍等，就把电话挂了。

zh inbound 转接
A 您好，星河电信，请问有什么可以帮您？
C 我这个月话费怎么扣了两百多？
A 您的问题需要账务专员处理，我帮您转接，请不要挂机。
B 您好，账务组，工号二二零七为您服务。
C 我这个月话费不对，我没有订过这个套餐。
B 好的，请问您的手机号是多少？
C 一三九一二三四五六七八。
B 我帮您查询一下。这个套餐是三月五号开通的，我给您取消，费用退回。
C 好，谢谢。

zh inbound 语音菜单
M 欢迎致电星河电信，普通话服务请按一，查询话费请按二，人工服务请按零。
M 您的来电对我们很重要，坐席全忙，请稍候。
A 您好，请问有什么可以帮您？
C 我想办一个新的套餐，便宜一点的。
A 好的，您现在的套餐是一百二十九的，我给您推荐一个五十九的。

zh outbound 关机 voicemail
M 您好，您拨打的电话暂时无法接通，请在提示音后留言。
A 您好李先生，您订的书到了，请您有空到店里来取。

zh inbound 智能客服 bot
M 您好，我是智能语音助手小安，请问您要办理什么业务？
C 我要查一下公积金。
M 好的，请说出您的身份证后六位。
C 零二一三四五。

zh inbound 诊所
A 康宁诊所。
C 你好，我想挂一个周五的号，看皮肤科的。
A 周五上午满了，下午可以吗？
C 下午也行，几点？
A 两点半，您贵姓？
C 免贵姓何。

zh inbound 聊天 unknown
A 喂，吃了吗？
C 刚吃完，你呢？
A 我也吃了，今天外面好冷啊。
C 可不是嘛，明天还要下雪。
A 那你多穿点。
C 嗯，好。

zh outbound 同事 unknown
C 喂。
A 老张，车到了没有？
C 到了，刚卸完货。
A 行，那我跟那边说一声。
C 好嘞。

zh inbound 家人 unknown
A 妈，我晚上不回来吃饭了。
C 又加班啊？
A 嗯，项目赶进度。
C 那你注意身体。
A 知道了，挂了啊。

zh unknown 数字 unknown
A 对。
C 三百二。
A 那另外一个呢？
C 四百五。
A 好。
"""

OTHERS = """
es inbound factura
A Buenos días, gracias por llamar a Telenorte, le atiende Lucía, ¿en qué puedo ayudarle?
C Hola, me llegó una factura altísima y quiero hacer una reclamación.
A Entiendo. ¿Me puede confirmar su número de cliente, por favor?
C Sí, es el cuatro cinco ocho ocho.
A Gracias por la espera. Le voy a generar un abono. ¿Hay algo más en lo que pueda ayudarle?
C No, eso es todo, gracias.

es outbound encuesta
C ¿Diga?
A Buenas tardes, le llamo de la clínica Santa Rosa para confirmar su cita del lunes.
C Ah sí, allí estaré.

es inbound amigos unknown
A ¿Qué tal, cómo estás?
C Bien, aquí en casa. ¿Y tú?
A Trabajando un poco. ¿Nos vemos el sábado?
C Claro.

de inbound vertrag
A Guten Tag, Stadtwerke Neustadt, mein Name ist Weber, was kann ich für Sie tun?
C Guten Tag, ich möchte gern meinen Vertrag kündigen.
A Das ist schade. Können Sie mir bitte Ihre Kundennummer nennen?
C Ja, die lautet acht acht drei null.
A Vielen Dank für Ihre Geduld. Kann ich sonst noch etwas für Sie tun?
C Nein danke, das war alles.

de inbound paket
C Hallo, mein Paket ist immer noch nicht angekommen.
A Das tut mir leid. Wie lautet denn Ihre Bestellnummer?
C Vier sieben eins eins.
A Einen Moment bitte, ich schaue kurz nach.

de inbound freunde unknown
A Na, wie geht's?
C Ganz gut, und dir?
A Auch. Kommst du am Samstag?
C Ja, gerne.

fr inbound commande
A Bonjour, service client Lumière, Camille à votre écoute, comment puis-je vous aider ?
C Bonjour, je vous appelle parce que je n'ai toujours pas reçu ma commande.
A Je suis désolée pour ce retard. Pouvez-vous me donner votre numéro de commande ?
C Oui, c'est le deux huit neuf.
A Merci, ne quittez pas. Merci d'avoir patienté. Je vous propose un remboursement.
C D'accord.

fr inbound amis unknown
A Salut, ça va ?
C Oui et toi ?
A Bien. Tu viens demain ?
C Oui, à demain.

pt inbound internet
A Bom dia, obrigada por ligar para a NetSul, meu nome é Paula, em que posso ajudar?
C Bom dia, minha internet está caindo toda hora.
A Lamento pelo transtorno. Pode me informar o seu CPF, por favor?
C Claro, é três dois um.
A Vou verificar. Só um momento. Posso ajudar o senhor em mais alguma coisa?
C Não, só isso.

pt inbound amigos unknown
A Oi, tudo bem?
C Tudo, e você?
A Tudo certo. Vamos jantar hoje?
C Vamos.

ja inbound 注文
A お電話ありがとうございます。みなみ通販、佐藤でございます。
C あの、先週注文した商品がまだ届かないんですけど。
A 大変申し訳ございません。ご注文番号をお伺いしてもよろしいでしょうか。
C はい、えっと、三二一五です。
A ありがとうございます。少々お待ちください。お待たせいたしました。

ja inbound 友達 unknown
A もしもし、今大丈夫？
C うん、大丈夫だよ。
A 明日の映画、何時だっけ？
C 七時だよ。
"""
